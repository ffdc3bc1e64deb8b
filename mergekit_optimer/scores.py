"""What a score is: a value with its standard error and n, made from per-sample values. No model, no torch.

A metric's value is the weighted mean of its samples: sum(v_i a_i) / sum(a_i). The weights a_i are 1 except for bits
per byte, where v_i is the sample's bits per byte and a_i its bytes, so that the value is the corpus' bits per byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Score:
    """A number from lighteval with its standard error and the number of samples."""

    value: float
    stderr: float
    n: int


@dataclass(frozen=True)
class MetricSamples:
    """Per-sample values of one metric, in the task's fixed order.

    Attributes:
        values: One value a sample, in the metric's own unit.
        weights: One non-negative weight a sample (1, or bytes for bits per byte).
        higher_is_better: Direction of the metric.
        floor: The value a collapsed model is given: what knowing nothing scores, or a number far below any score
            where no such value is known.
    """

    values: tuple[float, ...]
    weights: tuple[float, ...]
    higher_is_better: bool
    floor: float

    def head(self, n: int) -> MetricSamples:
        """The first n samples (all where there are fewer)."""
        return MetricSamples(self.values[:n], self.weights[:n], self.higher_is_better, self.floor)

    def score(self) -> Score:
        """Weighted mean with the standard error of a ratio estimator.

        Source: Cochran, Sampling Techniques (1977), section 2.11; equals s / sqrt(n) where all weights are 1.
        """
        return Score(*_weighted_mean(self.values, self.weights), n=len(self.values))

    def minus(self, other: MetricSamples) -> Score:
        """Paired difference self - other over the same samples, with the standard error of the difference.

        Raises:
            ValueError: The two do not stand on the same samples.
        """
        if self.weights != other.weights:
            raise ValueError("a paired difference needs the same samples in the same order")
        differences = [mine - theirs for mine, theirs in zip(self.values, other.values, strict=True)]
        return Score(*_weighted_mean(differences, self.weights), n=len(self.values))

    def to_json(self) -> dict[str, Any]:
        """Plain data; a value that is not finite, which JSON does not know, becomes null."""
        return asdict(self) | {"values": [value if math.isfinite(value) else None for value in self.values]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MetricSamples:
        values = tuple(math.nan if value is None else value for value in data["values"])
        return cls(values, tuple(data["weights"]), bool(data["higher_is_better"]), float(data["floor"]))


@dataclass(frozen=True)
class TaskScores:
    """Everything measured of one task for one model: its metrics' samples, and which metric the recipe chose."""

    metrics: dict[str, MetricSamples]
    primary: str

    @property
    def score(self) -> Score:
        """Score of the primary metric."""
        return self.metrics[self.primary].score()

    def head(self, n: int) -> TaskScores:
        return TaskScores({name: samples.head(n) for name, samples in self.metrics.items()}, self.primary)

    def to_json(self) -> dict[str, Any]:
        return {"primary": self.primary, "metrics": {name: s.to_json() for name, s in sorted(self.metrics.items())}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TaskScores:
        return cls({name: MetricSamples.from_json(s) for name, s in data["metrics"].items()}, data["primary"])


def collapsed(scores: dict[str, TaskScores]) -> list[str]:
    """Names of the tasks on which a model collapsed: a value is not finite, or worse than knowing nothing."""
    return [name for name, task in sorted(scores.items()) if _is_collapsed(task.metrics[task.primary])]


def floored(scores: dict[str, TaskScores]) -> dict[str, TaskScores]:
    """Replace what is not finite by each metric's floor, so that a collapsed model has a finite, bad score.

    A sampler that is told nothing of collapsed regions keeps proposing them; a finite floor teaches it.
    """
    return {
        name: TaskScores({metric: _floored(samples) for metric, samples in task.metrics.items()}, task.primary)
        for name, task in scores.items()
    }


def _is_collapsed(samples: MetricSamples) -> bool:
    if not all(map(math.isfinite, samples.values)):
        return True
    value = samples.score().value
    # Exact match, probability and accuracy of 0 are bad scores, not collapse: only open-ended scales collapse.
    return value > samples.floor if not samples.higher_is_better else value < samples.floor


def _floored(samples: MetricSamples) -> MetricSamples:
    if not _is_collapsed(samples):
        return samples
    values = tuple(samples.floor for _ in samples.values)
    return MetricSamples(values, samples.weights, samples.higher_is_better, samples.floor)


def _weighted_mean(values: Sequence[float], weights: Sequence[float]) -> tuple[float, float]:
    v: npt.NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    a: npt.NDArray[np.float64] = np.asarray(weights, dtype=np.float64)
    n, total = len(v), float(a.sum())
    mean = float((v * a).sum()) / total
    if n < 2:
        return mean, 0.0
    residuals = a * (v - mean)
    return mean, float(np.sqrt(n / (n - 1) * (residuals**2).sum())) / total
