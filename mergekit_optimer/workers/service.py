"""What a worker is asked and answers, and how it answers: one call at a time, with no error left unsaid.

A worker holds a ``Scorer``: model, vectors and dev samples, loaded once. Where it runs, and what carries the calls, is
``processes``' and ``actors``' business.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mergekit_optimer.errors import DiskError, InfrastructureError, OptimerError
from mergekit_optimer.search import FAULTS, Measured


class Scorer(Protocol):
    """What a worker loads, whole or as one of several that score a weight vector together."""

    def load(self) -> str:
        """Load everything, and return the identity of what scores: of base and pool."""

    def score(self, weights: Mapping[str, float], start: int, stop: int) -> Measured:
        """Score dev samples start..stop of each task."""

    def score_part(self, weights: Mapping[str, float], start: int, stop: int, index: int, count: int) -> Any:
        """Score what falls to part ``index`` of ``count``."""

    def join_parts(self, start: int, stop: int, parts: list[Any]) -> Measured:
        """Join all parts into what ``score`` would have given, bit for bit; no model is run."""

    def slopes(self, weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:
        """Value and slope of the objective."""


@dataclass(frozen=True)
class Call:
    """One of a scorer's methods with its arguments."""

    method: Literal["load", "score", "score_part", "join_parts", "slopes"]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What came of a call.

    Attributes:
        value: What the method returned.
        fault: The machine's failure, which another try may not meet.
        refusal: Why this worker will never do: the user's own words to act on.
        bug: A traceback.
        has_died: Whether the worker must be replaced.
    """

    value: Any = None
    fault: BaseException | None = None
    refusal: str | None = None
    bug: str | None = None
    has_died: bool = False


def answer(scorer: Scorer, call: Call) -> Answer:
    """Run a call."""
    try:
        return Answer(getattr(scorer, call.method)(*call.arguments))
    except FAULTS as error:
        return Answer(fault=plain(error))
    except OptimerError as error:
        return Answer(refusal=str(error))
    except Exception:
        return Answer(bug=traceback.format_exc())


def plain(error: BaseException) -> BaseException:
    """An error with its sentence alone, which can be sent: a cause may hold a whole model, a subclass want more."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    kinds = (DiskError, InfrastructureError, MemoryError, OSError)
    return next(kind for kind in kinds if isinstance(error, kind))(str(error))


# Makes a scorer in the worker's own process; sent there, so it must be picklable.
MakeScorer = Callable[[], Scorer]
