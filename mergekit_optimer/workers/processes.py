"""Workers on this machine: processes over pipes, one per device set. Nothing to install, nothing that listens.

A worker lives no longer than its driver: the kernel ends it when the driver dies, however that dies.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from mergekit_optimer.errors import InfrastructureError
from mergekit_optimer.workers.service import Answer, Call, MakeScorer, answer

_PR_SET_PDEATHSIG = 1


@dataclass
class _Seat:
    process: Any
    pipe: Connection


class LocalProcesses:
    """A backend of the crew: each worker a spawned process with its own environment."""

    def __init__(self, make_scorer: MakeScorer, environments: Sequence[Mapping[str, str]]) -> None:
        """Start the workers, which load nothing yet.

        Args:
            make_scorer: Called in each worker; picklable.
            environments: Of each worker, what is set in it before anything heavy is imported: its devices.
        """
        self._context = multiprocessing.get_context("spawn")
        self._make_scorer, self._environments = make_scorer, [dict(one) for one in environments]
        self._seats = [self._start(worker) for worker in range(len(environments))]

    @property
    def n_workers(self) -> int:
        return len(self._seats)

    def send(self, worker: int, call: Call) -> None:
        try:
            self._seats[worker].pipe.send(call)
        except OSError:
            # It is dead; ``wait`` finds its pipe at the end and says so.
            return

    def wait(self, timeout_s: float | None) -> tuple[int, Answer] | None:
        ready = wait([seat.pipe for seat in self._seats], timeout_s)
        for worker, seat in enumerate(self._seats):
            if seat.pipe not in ready:
                continue
            try:
                answered: Answer = seat.pipe.recv()
            except (EOFError, OSError):
                seat.process.join()
                reason = _how_it_ended(worker, seat.process.exitcode)
                return worker, Answer(fault=InfrastructureError(reason), has_died=True)
            return worker, answered
        return None

    def replace(self, worker: int) -> None:
        self._end(self._seats[worker])
        self._seats[worker] = self._start(worker)

    def close(self) -> None:
        for seat in self._seats:
            self._end(seat)

    def _start(self, worker: int) -> _Seat:
        mine, theirs = self._context.Pipe()
        arguments = (theirs, os.getpid(), self._make_scorer, self._environments[worker])
        process = self._context.Process(target=_serve, args=arguments, daemon=True, name=f"worker-{worker}")
        process.start()
        theirs.close()
        return _Seat(process, mine)

    def _end(self, seat: _Seat) -> None:
        seat.process.kill()
        seat.process.join()
        seat.process.close()
        seat.pipe.close()


def _how_it_ended(worker: int, code: int) -> str:
    if code == -signal.SIGKILL:
        return f"worker {worker} was killed; where nobody did, the system ran out of memory"
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return f"worker {worker} {how} in the middle of its work"


def _serve(pipe: Connection, driver_pid: int, make_scorer: MakeScorer, environment: dict[str, str]) -> None:
    """A worker's life: answer calls until the driver closes the pipe, or dies."""
    # Ctrl-C goes to the whole group; the driver ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != driver_pid:
        return
    # Standard output is the driver's, for data.
    os.dup2(2, 1)
    os.environ.update(environment)
    scorer = make_scorer()
    while True:
        try:
            call: Call = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(answer(scorer, call))
        except BrokenPipeError:
            return
