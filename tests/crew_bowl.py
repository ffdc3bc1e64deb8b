"""Workers without a model, for tests: the bowl as a scorer that can be sent to a process, and made to misbehave."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bowl import VECTORS, Bowl, recipe

from mergekit_optimer.errors import DiskError, InfrastructureError, VectorError
from mergekit_optimer.runs import RunDir
from mergekit_optimer.scores import MetricSamples, TaskScores
from mergekit_optimer.search import Measured, Search
from mergekit_optimer.workers import Crew, LocalProcesses


@dataclass
class BowlScorer:
    """A worker's scorer.

    Attributes:
        folder: Where marks are kept that outlive a process.
        spoil: What goes wrong, by name; once in all (by a mark) unless it ends in "always".
        delay_s: Seconds a score takes.
    """

    folder: Path
    spoil: str = ""
    delay_s: float = 0.0
    identity: str = "theirs"
    bowl: Bowl = field(default_factory=Bowl)

    def load(self) -> str:
        (self.folder / f"gpus-{os.environ.get('CUDA_VISIBLE_DEVICES', 'none')}").touch()
        if self.spoil == "load":
            raise VectorError("Vector 'ja' is not on this machine.")
        return self.identity

    def score(self, weights: Mapping[str, float], start: int, stop: int) -> Measured:
        (self.folder / f"pid-{os.getpid()}").touch()
        self._misbehave(weights)
        time.sleep(self.delay_s)
        return self.bowl(weights, self.folder / "unused", start, stop)

    def score_part(self, weights: Mapping[str, float], start: int, stop: int, index: int, count: int) -> Any:
        whole = self.score(weights, start, stop).scores
        return index, {
            (name, place): value
            for name, task in whole.items()
            for place, value in enumerate(task.metrics["bits_per_byte"].values)
            if place % count == index
        }

    def join_parts(self, start: int, stop: int, parts: list[Any]) -> Measured:
        assert [index for index, _ in parts] == list(range(len(parts)))
        found: dict[tuple[str, int], float] = {}
        for _, part in parts:
            found |= part
        scores = {}
        for name in sorted({name for name, _ in found}):
            values = tuple(found[name, place] for place in range(stop - start))
            samples = MetricSamples(values, (1.0,) * len(values), higher_is_better=False, floor=8.0)
            scores[name] = TaskScores({"bits_per_byte": samples}, "bits_per_byte")
        return Measured(scores, 0.1, 0.2)

    def slopes(self, weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:
        value = -sum(self.bowl(weights, self.folder / "unused", 0, n_samples).scores["dev"].metrics[
            "bits_per_byte"].values) / n_samples  # fmt: skip
        return value, {name: -2 * (weights[name] - best) for name, best in (("code", 0.7), ("ja", 0.5), ("math", -0.2))}

    def _misbehave(self, weights: Mapping[str, float]) -> None:
        if not self.spoil or (weights["code"], weights["ja"]) != (0.5, 0.5):
            return
        mark = self.folder / "spoilt"
        if not self.spoil.endswith("always"):
            try:
                mark.touch(exist_ok=False)
            except FileExistsError:
                return
        what = self.spoil.removesuffix(" always")
        if what == "die":
            os.kill(os.getpid(), 9)
        elif what == "hang":
            time.sleep(3600)
        elif what == "memory":
            raise MemoryError("no room")
        elif what == "device":
            raise InfrastructureError("The device failed.")
        elif what == "disk":
            raise DiskError("The disk is full.")
        elif what == "bug":
            raise ZeroDivisionError("a bug")


@dataclass
class Made:
    """Makes a scorer in the worker."""

    options: dict[str, Any]

    def __call__(self) -> BowlScorer:
        return BowlScorer(**self.options)


def crew(
    folder: Path, n_workers: int, timeout_s: float | None = 30.0, in_flight: int | None = None, **options: Any
) -> Crew:
    """Local workers over the bowl."""
    folder.mkdir(parents=True, exist_ok=True)
    backend = LocalProcesses(Made({"folder": folder} | options), [{"WORKER": str(n)} for n in range(n_workers)])
    return Crew(backend, "theirs", in_flight=in_flight, timeout_s=timeout_s)


def make(tmp_path: Path, workers: Crew, **search: Any) -> Search:
    return Search(recipe(**search), RunDir(tmp_path / "run"), VECTORS, "identity", workers, workers.slopes)
