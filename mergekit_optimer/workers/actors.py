"""Workers as Ray actors, on the machines of a cluster that is there; Ray is the extra [ray]."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mergekit_optimer.errors import InfrastructureError, WorkerError
from mergekit_optimer.workers.service import Answer, Call, MakeScorer, Scorer, answer

log = logging.getLogger(__name__)

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_INSTALL = "pip install 'mergekit-optimer[ray]'"


class RayActors:
    """A backend of the crew: each worker an actor with devices of its own, loaded once."""

    def __init__(
        self, make_scorer: MakeScorer, n_workers: int, gpus_per_worker: int, environment: Mapping[str, str]
    ) -> None:
        """Start the actors of a driver that is connected; they load nothing yet.

        Args:
            gpus_per_worker: GPUs of each; 0 on CPUs.
            environment: What is set in each before anything heavy is imported.
        """
        self._make_scorer, self._gpus, self._environment = make_scorer, gpus_per_worker, dict(environment)
        self._actors = [self._start() for _ in range(n_workers)]
        self._asked: dict[Any, int] = {}

    @staticmethod
    def connect(address: str, n_workers: int, gpus_per_worker: int) -> None:
        """Connect this process to a cluster.

        Args:
            address: ``auto`` for the cluster that this machine belongs to, else ``host:port``.

        Raises:
            WorkerError: Ray is not installed, no cluster answers, or it has fewer devices than workers want.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise WorkerError(
                f"Ray is not installed: {_INSTALL}, or leave --ray out for workers on this machine."
            ) from error
        if not ray.is_initialized():
            try:
                _look_for(os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address)
                with _handlers_kept():
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, OSError, RuntimeError, ValueError) as error:
                words = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
                if address == "auto" and isinstance(error, ConnectionError):
                    words = "none runs on this machine, and RAY_ADDRESS names none"
                reason = words.splitlines()[0]
                raise WorkerError(
                    f"No Ray cluster answers at '{address}' ({reason}). Start one with `ray start --head`, or leave "
                    "--ray out for workers on this machine."
                ) from error
        kind, each = ("GPU", gpus_per_worker) if gpus_per_worker else ("CPU", 1)
        # Node by node: a worker's devices are of one machine.
        nodes = [node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]]
        n_possible = sum(int(count // each) for count in nodes)
        if n_workers > n_possible:
            ray.shutdown()
            raise WorkerError(
                f"{n_workers} workers of {each} {kind}{'s' if each > 1 else ''} want more than the "
                f"{int(sum(nodes))} of the Ray cluster's {len(nodes)} machines; give --workers {max(1, n_possible)}."
            )

    @property
    def n_workers(self) -> int:
        return len(self._actors)

    def send(self, worker: int, call: Call) -> None:
        self._asked[self._actors[worker].answer.remote(call)] = worker

    def wait(self, timeout_s: float | None) -> tuple[int, Answer] | None:
        import ray
        from ray.exceptions import RayError

        if not self._asked:
            return None
        ready, _ = ray.wait(list(self._asked), num_returns=1, timeout=timeout_s)
        if not ready:
            return None
        worker = self._asked.pop(ready[0])
        try:
            answered: Answer = ray.get(ready[0])
        except RayError as error:
            reason = " ".join(_COLOURS.sub("", str(error)).split())[:300]
            return worker, Answer(fault=InfrastructureError(f"worker {worker} died: {reason}"), has_died=True)
        return worker, answered

    def replace(self, worker: int) -> None:
        import ray

        self._asked = {asked: whose for asked, whose in self._asked.items() if whose != worker}
        ray.kill(self._actors[worker])
        self._actors[worker] = self._start()

    def close(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        ray.shutdown()

    def _start(self) -> Any:
        import ray

        # One that dies is replaced by the crew, which knows what it was at.
        remote = ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_task_retries=0)(_Actor)
        return remote.remote(self._make_scorer, self._environment)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would end this process without giving its trials back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _look_for(address: str) -> None:
    """Connect to a cluster's port and leave: where nothing answers, Ray would end this process without a word of ours.

    Raises:
        OSError: Nothing answers there.
        ValueError: It is no address.
    """
    if address == "auto":
        # Ray finds it by its own file, and says where there is none.
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError("it is neither auto nor host:port")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class _Actor:
    """A worker's life in Ray."""

    def __init__(self, make_scorer: MakeScorer, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._scorer: Scorer = make_scorer()

    def answer(self, call: Call) -> Answer:
        return answer(self._scorer, call)
