"""The gradient warm start: a few bounded L-BFGS steps on the merge weights. Knows no model: slopes come in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mergekit_optimer.recipe import SearchSection

# A forward and a backward pass cost about this many forward passes.
FORWARDS = 3.0
# The first stage sees this share of the samples, but not fewer than MIN_SAMPLES of each task.
SMALL_SHARE = 0.2
MIN_SAMPLES = 4
SMALL_EVALUATIONS = 10
FULL_EVALUATIONS = 3
# L-BFGS opens a stage with a step of length 1 in the units it sees; merge weights move less.
SMALL_STEP = 0.5
FULL_STEP = 0.1


class Slopes(Protocol):
    """The objective and its derivative by each merge weight, on the first n samples of each task."""

    def __call__(self, weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]: ...


@dataclass(frozen=True)
class Climb:
    """What a climb found.

    Attributes:
        points: End point of each stage, worth a trial each; distinct, inside the box, none a start.
        n_evaluations: Times the value and its slopes were computed.
        sample_cost: What they cost, in trials without a gradient.
    """

    points: list[dict[str, float]]
    n_evaluations: int
    sample_cost: float


def climb_gradient(
    slopes: Slopes,
    spec: SearchSection,
    vectors: Sequence[str],
    starts: Sequence[Mapping[str, float]],
    n_samples: int,
) -> Climb:
    """Climb from the better start, first on a small batch, then a little on all samples.

    A value or slope that is not finite ends the climb with the best point so far.

    Args:
        starts: Weights inside the intervals, which have their trials already.
        n_samples: Samples of each task that a trial scores.

    Source: L-BFGS-B, Byrd et al. 1995; the chain rule d value / d w_k = <d value / d theta, tau_k>.
    """
    small = min(n_samples, max(MIN_SAMPLES, round(SMALL_SHARE * n_samples)))
    begun = [np.array([start[name] for name in vectors], dtype=float) for start in starts]
    if not begun:
        return Climb([], 0, 0.0)
    stages = [_Stage(slopes, spec, vectors, small, SMALL_EVALUATIONS, SMALL_STEP)]
    if small < n_samples:
        stages.append(_Stage(slopes, spec, vectors, n_samples, FULL_EVALUATIONS, FULL_STEP))
    here: Sequence[np.ndarray] = begun
    ends: list[np.ndarray] = []
    for stage in stages:
        end = stage.climb(here)
        if end is not None:
            here = [end]
            if not any(np.array_equal(end, known) for known in [*begun, *ends]):
                ends.append(end)
        if stage.is_broken:
            break
    return Climb(
        points=[dict(zip(vectors, end.tolist(), strict=True)) for end in ends],
        n_evaluations=sum(stage.n_evaluations for stage in stages),
        sample_cost=sum(stage.n_evaluations * FORWARDS * stage.n_samples / n_samples for stage in stages),
    )


class _Enough(Exception):  # noqa: N818 - ends a stage; nothing is wrong
    """The stage has had its evaluations, or met a number that is not finite."""


@dataclass
class _Stage:
    """One ascent on a fixed number of samples."""

    slopes: Slopes
    spec: SearchSection
    vectors: Sequence[str]
    n_samples: int
    max_evaluations: int
    step: float
    n_evaluations: int = 0
    is_broken: bool = False
    _best: tuple[float, np.ndarray] | None = field(default=None)

    def climb(self, starts: Sequence[np.ndarray]) -> np.ndarray | None:
        """Climb from the best of the starts; None where not one value was finite."""
        from scipy.optimize import minimize

        intervals = [self.spec.interval(name) for name in self.vectors]
        low, high = (np.array([getattr(one, side) for one in intervals]) for side in ("low", "high"))
        known: dict[bytes, tuple[float, np.ndarray]] = {}

        def fall(scaled: Any) -> tuple[float, np.ndarray]:
            # Scaling and unscaling may leave the box by a rounding.
            point = np.clip(np.asarray(scaled, dtype=float) * self.step, low, high)
            if (key := point.tobytes()) not in known:
                known[key] = self._evaluate(point)
            value, slope = known[key]
            return -value, -slope * self.step

        try:
            for start in starts:
                fall(start / self.step)
            assert self._best is not None
            begin = self._best[1] / self.step
            bounds = list(zip(low / self.step, high / self.step, strict=True))
            minimize(fall, begin, jac=True, method="L-BFGS-B", bounds=bounds)
        except _Enough:
            pass
        return None if self._best is None else self._best[1]

    def _evaluate(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        if self.n_evaluations == self.max_evaluations:
            raise _Enough
        self.n_evaluations += 1
        value, by_name = self.slopes(dict(zip(self.vectors, point.tolist(), strict=True)), self.n_samples)
        slope = np.array([by_name[name] for name in self.vectors], dtype=float)
        if not (math.isfinite(value) and np.isfinite(slope).all()):
            self.is_broken = True
            raise _Enough
        if self._best is None or value > self._best[0]:
            self._best = (value, point)
        return value, slope
