"""Paired bootstrap: how much better one model is than another on the same samples, with an interval. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mergekit_optimer.errors import TaskError
from mergekit_optimer.scores import MetricSamples

LEVEL = 0.95
# Resampled counts are held for so many samples at once: 16 MB of float64.
_CHUNK = 2_000_000

Verdict = Literal["better", "no clear difference", "worse"]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """How much better the winner is, with a percentile bootstrap interval."""

    difference: float
    low: float
    high: float
    level: float = LEVEL

    @property
    def verdict(self) -> Verdict:
        """``better`` or ``worse`` only where the interval leaves out zero."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no clear difference"


def paired_bootstrap(winner: MetricSamples, other: MetricSamples, *, n_resamples: int = 10_000, seed: int) -> Interval:
    """Difference between two models on one task, with a 95 % interval.

    Samples are drawn with replacement, the same ones for both models, and each draw gives one weighted mean a model.

    Raises:
        TaskError: The two models were not scored on the same samples.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; paired as in Koehn 2004,
        "Statistical Significance Tests for Machine Translation Evaluation".
    """
    check_paired("the task", {"the winner": winner, "the other model": other})
    draws = resampled_differences(winner, [other], n_resamples, seed)
    sign = 1.0 if winner.higher_is_better else -1.0
    return percentile_interval(sign * (winner.score().value - other.score().value), draws[:, 0])


def check_paired(where: str, samples: Mapping[str, MetricSamples]) -> None:
    """Refuse models that do not stand on the same samples of a task.

    Raises:
        TaskError: Two models differ in number or weights of their samples.
    """
    (first, reference), *rest = samples.items()
    for model, other in rest:
        if len(other.values) != len(reference.values) or other.weights != reference.weights:
            raise TaskError(f"{first} and {model} were scored on different samples of {where}; score both anew.")


def resampled_differences(winner: MetricSamples, others: Sequence[MetricSamples], n_resamples: int, seed: int) -> Array:
    """Oriented weighted mean of winner - other under resampling, of shape [n_resamples, others].

    One draw of samples serves all models. Differences are taken before they are summed, so equal models differ by 0
    exactly and not by the rounding of two sums.
    """
    weights = np.asarray(winner.weights, dtype=np.float64)
    sign = 1.0 if winner.higher_is_better else -1.0
    values = np.asarray(winner.values, dtype=np.float64)
    differences = [sign * (values - np.asarray(other.values, dtype=np.float64)) * weights for other in others]
    sums = np.stack([*differences, weights], axis=1)
    n = len(weights)
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    means = []
    for start in range(0, n_resamples, rows):
        size = min(rows, n_resamples - start)
        drawn = rng.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        totals = counts @ sums
        means.append(totals[:, :-1] / totals[:, -1:])
    return np.concatenate(means)


def percentile_interval(difference: float, replicates: Array) -> Interval:
    """The observed difference with the quantiles of its resampled replicates."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    # Adding 0 turns a negative zero into zero.
    return Interval(difference + 0.0, float(low) + 0.0, float(high) + 0.0)
