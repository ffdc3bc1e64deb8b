"""Who scores: a study's workers as the study sees them, and the simplest of them, this process itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mergekit_optimer.errors import DiskError, InfrastructureError
from mergekit_optimer.search.records import Measured, MergeAndScore

# So often a weight vector is tried where the machine, not the merge, is what fails.
MAX_ATTEMPTS = 3
# What a worker gives back instead of scores. Anything else that is raised is a bug, or a person who interrupts.
FAULTS = (InfrastructureError, MemoryError, OSError)


def is_final(fault: BaseException) -> bool:
    """Whether a fault would meet every trial to come: a full disk does."""
    return isinstance(fault, DiskError | OSError) and not isinstance(fault, MemoryError)


@dataclass(frozen=True)
class Request:
    """One weight vector to be merged and scored.

    Attributes:
        trial_dir: The trial's folder.
        start: First dev sample of each task; ``stop``: the one after the last.
    """

    weights: Mapping[str, float]
    trial_dir: Path
    start: int
    stop: int


class Workers(Protocol):
    """Takes as many requests at once as it has places, and gives their scores back in any order."""

    @property
    def n_places(self) -> int:
        """How many requests are scored at once."""

    def submit(self, ticket: int, request: Request) -> None:
        """Begin to score; there must be a free place. The ticket comes back with the scores."""

    def wait(self) -> tuple[int, Measured | BaseException] | None:
        """Return the next ticket that is done, with its scores or one of FAULTS; None where none was submitted."""


class InProcess:
    """One place, in this process: a request is scored while its result is waited for."""

    n_places = 1

    def __init__(self, score: MergeAndScore) -> None:
        self._score = score
        self._asked: deque[tuple[int, Request]] = deque()

    def submit(self, ticket: int, request: Request) -> None:
        self._asked.append((ticket, request))

    def wait(self) -> tuple[int, Measured | BaseException] | None:
        if not self._asked:
            return None
        ticket, asked = self._asked.popleft()
        try:
            return ticket, self._score(asked.weights, asked.trial_dir, asked.start, asked.stop)
        except FAULTS as error:
            return ticket, error
