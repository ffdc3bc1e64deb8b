"""The processes of one training, as torchrun and accelerate start them: the first decides, the others follow.

Starts none, and what they exchange while they train is the trainer's. The run folder is the first one's alone; the
others only read it, so on several machines it must be on a file system that all of them share.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar

from mergekit_optimer.errors import InfrastructureError

# As torchrun sets them on every machine. RANK counts over all machines, LOCAL_RANK on one.
_STARTED_WITH = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
# A base of many gigabytes may be on its way. Whoever started the processes ends all of them when one fails.
_PATIENCE = timedelta(days=7)
# What is wrong for all is said by the first, whose end is the others' end.
_HEAD_START_S = 30.0

T = TypeVar("T")


class Processes:
    """All processes of a training, seen from one of them.

    Attributes:
        rank: Which one this is; 0 is the first, which writes the run folder, logs, prints and pushes.
        n: How many there are, on all machines.
    """

    def __init__(self, rank: int = 0, n: int = 1) -> None:
        self.rank, self.n = rank, n
        self._n_shared = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, value: T) -> T:
        """Return the first process' value, plain data, in every process; the others wait for it."""
        if self.n == 1:
            return value
        self._n_shared += 1
        key = f"mergekit-optimer/{self._n_shared}"
        if self.is_first:
            self._store.set(key, json.dumps(value))
            return value
        self._store.wait([key], _PATIENCE)
        shared: T = json.loads(self._store.get(key))
        return shared

    def leave(self) -> None:
        """Part from the others, when all have come so far; each goes on alone."""
        if self.n == 1:
            return
        import torch.distributed

        # The store may be the first process' own, and must be there until the last has read it.
        if self._store.add("mergekit-optimer/n-left", 1) == self.n:
            self._store.set("mergekit-optimer/all-left", "")
        if self.is_first:
            self._store.wait(["mergekit-optimer/all-left"], _PATIENCE)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """Let the first process speak for all. Another's error is told only where that one has none of its own.

        Raises:
            InfrastructureError: Another process is gone.
        """
        if not self.is_first:
            logging.getLogger("mergekit_optimer").setLevel(logging.ERROR)
        try:
            with _loss_named():
                yield
        except Exception:
            if not self.is_first:
                time.sleep(_HEAD_START_S)
            raise

    @cached_property
    def _store(self) -> Any:
        """Where all meet before the trainer's own process group is there, whose patience is the recipe's."""
        from torch.distributed import rendezvous

        return next(rendezvous("env://"))[0]


ALONE = Processes()


def started_processes() -> Processes:
    """What this process was started as: one of several by torchrun or ``accelerate launch``, else alone."""
    if any(name not in os.environ for name in _STARTED_WITH):
        return Processes()
    return Processes(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


@contextmanager
def _loss_named() -> Iterator[None]:
    """Turn the loss of another process into a sentence."""
    try:
        yield
    except RuntimeError as error:
        from torch.distributed import DistError

        # gloo has no error class of its own.
        if not isinstance(error, DistError) and "gloo" not in str(error):
            raise
        raise InfrastructureError(
            "Another process of this training has ended or does not answer; see what it said, then run the same "
            "command again: it goes on."
        ) from error
