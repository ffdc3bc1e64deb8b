"""A study's workers as groups: each group takes one weight vector, its members share the dev samples.

Up to eight weight vectors are in the air at once. More waste proposals, which then know too little of each other: in
simulations 8 cost almost nothing and 32 most of a search, so further workers go into the groups.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mergekit_optimer.errors import InfrastructureError, WorkerError
from mergekit_optimer.search import MAX_ATTEMPTS, Measured, Request
from mergekit_optimer.workers.service import Answer, Call

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 8
# So often a worker that was replaced may fail to load.
MAX_LOADS = 3
# A large base comes from a slow disk, or a machine for a worker must first be found; then it is said.
LOAD_TIMEOUT_S = 3600.0
# Tickets of what is no trial.
_SLOPES, _LOADING, _IDLE = -1, -2, -3


class Backend(Protocol):
    """Processes that answer calls, one at a time each, wherever they are."""

    @property
    def n_workers(self) -> int:
        """How many there are."""

    def send(self, worker: int, call: Call) -> None:
        """Ask an idle worker."""

    def wait(self, timeout_s: float | None) -> tuple[int, Answer] | None:
        """Return the next answer, or a fault where the worker died; None where none comes in time."""

    def replace(self, worker: int) -> None:
        """End a worker that does not answer and start another in its place."""

    def close(self) -> None:
        """End all workers."""


@dataclass
class _Group:
    """Workers that score one weight vector together."""

    members: list[int]
    ticket: int | None = None
    request: Request | None = None
    parts: dict[int, Any] = field(default_factory=dict)
    held: Mapping[str, float] | None = None


class Crew:
    """Implements ``search.Workers`` over a backend."""

    def __init__(
        self, backend: Backend, identity: str, *, in_flight: int | None = None, timeout_s: float | None = None
    ) -> None:
        """Put workers into groups; nothing is loaded yet.

        Args:
            identity: What all workers must have: of base and pool.
            in_flight: Weight vectors scored at once; None: one a worker, up to ``MAX_IN_FLIGHT``.
            timeout_s: Seconds after which a worker that does not answer is ended; None: never.
        """
        self._backend, self._identity, self._timeout_s = backend, identity, timeout_s
        n_groups = min(backend.n_workers, in_flight or MAX_IN_FLIGHT)
        self._groups = [_Group(list(range(first, backend.n_workers, n_groups))) for first in range(n_groups)]
        self._group_of = {worker: group for group in self._groups for worker in group.members}
        # Worker -> until when it may take, and for which ticket.
        self._busy: dict[int, tuple[float | None, int]] = {}
        # Worker -> how often it was replaced since it had last loaded.
        self._n_loads: dict[int, int] = {}
        self._asked: deque[tuple[int, Request]] = deque()
        self._ended: deque[tuple[int, Measured | BaseException]] = deque()

    @property
    def n_places(self) -> int:
        return len(self._groups)

    def load(self) -> None:
        """Have every worker load what it scores with, side by side, and check that it is the study's.

        Raises:
            WorkerError: One cannot, or has another base or pool.
        """
        loading = set(self._group_of)
        for worker in sorted(loading):
            self._send(worker, Call("load"), _LOADING)
        while loading:
            worker, answered = self._next()
            if self._busy.pop(worker, None) is None:
                # It had loaded, and died before it was asked for anything.
                self._replace(worker)
                loading.add(worker)
                continue
            if answered.fault is not None:
                raise WorkerError(f"Worker {worker} cannot be started: {answered.fault}") from answered.fault
            self._check(worker, answered, was_loading=True)
            loading.discard(worker)
            log.info("worker %d of %d has loaded", len(self._group_of) - len(loading), len(self._group_of))

    def submit(self, ticket: int, request: Request) -> None:
        self._asked.append((ticket, request))
        self._dispatch()

    def wait(self) -> tuple[int, Measured | BaseException] | None:
        while not self._ended and (self._asked or any(group.ticket is not None for group in self._groups)):
            self._dispatch()
            self._take(*self._next())
        return self._ended.popleft() if self._ended else None

    def slopes(self, weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:
        """Value and slope of the objective, by the first worker that is free; trials in the air go on meanwhile.

        Raises:
            InfrastructureError: It failed, however often it was tried.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            worker = self._free_worker()
            self._group_of[worker].held = None
            self._send(worker, Call("slopes", (dict(weights), n_samples)), _SLOPES)
            answered = Answer()
            while worker in self._busy and self._busy[worker][1] == _SLOPES:
                answering, answered = self._next()
                self._take(answering, answered)
            if answered.fault is None:
                self._check(worker, answered)
                found: tuple[float, dict[str, float]] = answered.value
                return found
            if not answered.has_died or attempt == MAX_ATTEMPTS:
                raise answered.fault
        raise AssertionError("unreachable")

    def _free_worker(self) -> int:
        """A worker of a group that scores nothing; waits for one."""
        while True:
            for worker, group in self._group_of.items():
                if group.ticket is None and worker not in self._busy:
                    return worker
            self._take(*self._next())

    def close(self) -> None:
        """End all workers."""
        self._backend.close()

    def _dispatch(self) -> None:
        """Give what is asked to groups that are free, to one that holds these very weights where there is one."""
        while self._asked:
            free = [group for group in self._groups if group.ticket is None and not self._is_busy(group)]
            if not free:
                return
            ticket, request = self._asked.popleft()
            group = next((one for one in free if one.held == dict(request.weights)), free[0])
            group.ticket, group.request, group.parts = ticket, request, {}
            arguments = (dict(request.weights), request.start, request.stop)
            count = len(group.members)
            for index, worker in enumerate(group.members):
                part = Call("score", arguments) if count == 1 else Call("score_part", (*arguments, index, count))
                self._send(worker, part, ticket)

    def _is_busy(self, group: _Group) -> bool:
        return any(worker in self._busy for worker in group.members)

    def _send(self, worker: int, call: Call, ticket: int) -> None:
        patience_s = LOAD_TIMEOUT_S if ticket == _LOADING else self._timeout_s
        self._busy[worker] = (None if patience_s is None else time.monotonic() + patience_s, ticket)
        self._backend.send(worker, call)

    def _next(self) -> tuple[int, Answer]:
        """The next answer, or a fault in place of one that does not come in time."""
        while True:
            limits = [end for end, _ in self._busy.values() if end is not None]
            answered = self._backend.wait(max(0.0, min(limits) - time.monotonic()) if limits else None)
            if answered is not None:
                return answered
            for worker, (end, ticket) in self._busy.items():
                if end is not None and time.monotonic() >= end:
                    patience_s = LOAD_TIMEOUT_S if ticket == _LOADING else self._timeout_s
                    log.warning("worker %d has not answered for %.0f s and is replaced", worker, patience_s)
                    reason = f"worker {worker} did not answer within {patience_s:g} s and was ended"
                    return worker, Answer(fault=InfrastructureError(reason), has_died=True)

    def _take(self, worker: int, answered: Answer) -> None:
        """Take an answer; the ticket that ends with it, where one does, joins those for ``wait``."""
        # One that died idle was asked for nothing.
        _, ticket = self._busy.pop(worker, (None, _IDLE))
        group = self._group_of[worker]
        if answered.has_died:
            self._replace(worker)
        if ticket == _LOADING:
            self._take_loaded(worker, answered)
        if ticket < 0 or ticket != group.ticket:
            # Also of a ticket that ended when another member failed.
            return
        if answered.fault is not None:
            group.held = None
            self._end(group, answered.fault)
            return
        self._check(worker, answered)
        assert group.request is not None
        group.held = dict(group.request.weights)
        if isinstance(answered.value, Measured):
            self._end(group, answered.value)
            return
        group.parts[group.members.index(worker)] = answered.value
        if len(group.parts) == len(group.members):
            parts = [group.parts[index] for index in range(len(group.members))]
            # By the one that has just answered: another may have died since.
            self._send(worker, Call("join_parts", (group.request.start, group.request.stop, parts)), ticket)

    def _replace(self, worker: int) -> None:
        """Put another worker in a dead one's place; it is given nothing before it has loaded.

        Raises:
            WorkerError: It has failed to load too often.
        """
        self._n_loads[worker] = self._n_loads.get(worker, 0) + 1
        if self._n_loads[worker] > MAX_LOADS:
            raise WorkerError(
                f"Worker {worker} died {MAX_LOADS} times before it had loaded; the machine may be short of memory."
            )
        self._backend.replace(worker)
        self._send(worker, Call("load"), _LOADING)

    def _take_loaded(self, worker: int, answered: Answer) -> None:
        if answered.fault is None:
            self._check(worker, answered, was_loading=True)
            self._n_loads[worker] = 0
            return
        log.warning("worker %d could not load: %s", worker, answered.fault)
        if not answered.has_died:
            self._replace(worker)

    def _end(self, group: _Group, outcome: Measured | BaseException) -> None:
        assert group.ticket is not None
        self._ended.append((group.ticket, outcome))
        group.ticket, group.request, group.parts = None, None, {}

    def _check(self, worker: int, answered: Answer, was_loading: bool = False) -> None:
        """Check what a worker said of itself.

        Raises:
            WorkerError: It cannot do, or is at another study.
        """
        if answered.bug is not None:
            raise RuntimeError(f"in worker {worker}:\n{answered.bug}")
        if answered.refusal is not None:
            raise WorkerError(f"Worker {worker}: {answered.refusal}")
        if was_loading and answered.value != self._identity:
            raise WorkerError(
                f"Worker {worker} has another base or pool than this process: its files or its version differ. Put the "
                "run folder and what the recipe names on a path that all machines share, or name them by repo."
            )
