"""A study without a model, for tests: merge-and-score stood in for by a known function of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mergekit_optimer.recipe import Recipe
from mergekit_optimer.runs import RunDir
from mergekit_optimer.scores import MetricSamples, TaskScores
from mergekit_optimer.search import InProcess, Measured, Search, Slopes, TrialRecord, WriteTrial

VECTORS = ["code", "ja", "math"]
OPTIMUM = {"code": 0.7, "ja": 0.5, "math": -0.2}


def recipe(**search: Any) -> Recipe:
    # The paper's search: what is tested here is the study around any sampler.
    plain = {"name": "tpe", "assist": "none"}
    section = {
        "n_trials": 12, "sampler": plain, "objective": {"mean": ["dev"]}, "rungs": [{"n_samples": 20}]
    } | search  # fmt: skip
    task = {"kind": "text", "path": "dev.jsonl"}
    return Recipe.model_validate(
        {
            "name": "study",
            "seed": 5,
            "base_model": {"path": "base"},
            "vectors": {name: {"checkpoint": {"path": name}} for name in VECTORS},
            "search": section,
            "tasks": {"dev": task, "en": task},
            "held_out": {"dev": {"kind": "text", "path": "held_out.jsonl"}},
        }
    )


def bits(weights: Mapping[str, float], sample: int, task: str = "dev") -> float:
    """Bits per byte of one sample: a bowl around the optimum; "en" only loses with the sum of weights."""
    distance = math.fsum((weights[name] - OPTIMUM[name]) ** 2 for name in VECTORS)
    if task == "en":
        return 1.0 + 0.1 * max(0.0, sum(weights.values())) + 0.01 * (sample % 5)
    return 2.0 + distance + 0.1 * math.sin(sample)


class Bowl:
    """Stands in for merge-and-score; counts its calls and breaks when told to.

    Attributes:
        asked: Every call as weights, start, stop.
    """

    def __init__(
        self,
        spoil: Callable[[int, Mapping[str, float]], float | None] = lambda _n, _w: None,
        bits: Callable[[Mapping[str, float], int, str], float] = bits,
        n_samples: Mapping[str, int] | None = None,
    ) -> None:
        """Stand in for a model.

        Args:
            spoil: Call's number and weights -> the value of all samples instead of ``bits``; None leaves them.
            n_samples: Samples a task has, where not endless.
        """
        self.asked: list[tuple[dict[str, float], int, int]] = []
        self._spoil, self._bits, self._n_samples = spoil, bits, n_samples or {}

    def __call__(self, weights: Mapping[str, float], trial_dir: Path, start: int, stop: int) -> Measured:
        self.asked.append((dict(weights), start, stop))
        value = self._spoil(len(self.asked), weights)
        trial_dir.mkdir(parents=True, exist_ok=True)
        scores = {}
        for task in ("dev", "en"):
            part = range(start, min(stop, self._n_samples.get(task, stop)))
            values = tuple(self._bits(weights, i, task) if value is None else value for i in part)
            if not values:
                continue
            samples = MetricSamples(values, (1.0,) * len(values), higher_is_better=False, floor=8.0)
            scores[task] = TaskScores({"bits_per_byte": samples}, "bits_per_byte")
        return Measured(scores, 0.1, 0.2)


def make(
    tmp_path: Path, bowl: Bowl, slopes: Slopes | None = None, *, write_trial: WriteTrial | None = None, **search: Any
) -> Search:
    run, workers = RunDir(tmp_path / "run"), InProcess(bowl)
    return Search(recipe(**search), run, VECTORS, "identity", workers, slopes, write_trial=write_trial)


def trail(records: list[TrialRecord]) -> list[tuple[dict[str, float], float]]:
    return [(record.weights, record.value) for record in records]
