"""The gradient warm start: a few bounded L-BFGS steps on the merge weights. Knows no model: slopes come in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mergekit_optimer.recipe import SearchSection

# A forward and a backward pass cost about this many forward passes.
FORWARDS = 4.0
# The small batch is this share of the samples, but no fewer than MIN_SAMPLES of each task.
SMALL_SHARE = 0.2
MIN_SAMPLES = 4
# Evaluations on the small batch before and after its hill is corrected, and the length of the step that opens each of
# the two ascents: the second begins close to where it will end.
FIRST_EVALUATIONS, FIRST_STEP = 7, 1.0
SECOND_EVALUATIONS, SECOND_STEP = 4, 0.1


class Slopes(Protocol):
    """The objective and its derivative by each merge weight, on the first n samples of each task."""

    def __call__(self, weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]: ...


@dataclass(frozen=True)
class Climb:
    """What a climb found.

    Attributes:
        points: End point of each ascent, worth a trial each; distinct, inside the box, none a start.
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
    """Climb the hill of a small batch from the better start; then once more, tilted to the slope of all samples.

    An evaluation on all samples costs as much as several trials, so there is one: what it says of the slope where the
    first ascent ended corrects the small batch. A value or slope that is not finite ends the climb with the best point
    so far.

    Args:
        starts: Weights inside the intervals, which have their trials already.
        n_samples: Samples of each task that a trial scores.

    Source: L-BFGS-B, Byrd et al. 1995; the correction: first-order model management, Alexandrov and Lewis 2001; the
    chain rule d value / d w_k = <d value / d theta, tau_k>.
    """
    begun = [np.array([start[name] for name in vectors], dtype=float) for start in starts]
    if not begun:
        return Climb([], 0, 0.0)
    intervals = [spec.interval(name) for name in vectors]
    box = np.array([(one.low, one.high) for one in intervals])
    small = _Batch(slopes, vectors, min(n_samples, max(MIN_SAMPLES, round(SMALL_SHARE * n_samples))))
    full = _Batch(slopes, vectors, n_samples)
    ends: list[np.ndarray] = []
    try:
        end = _ascend(_Hill(small, FIRST_EVALUATIONS), begun, box, FIRST_STEP, ends)
        if small.n_samples < n_samples:
            tilt = full.at(end)[1] - small.at(end)[1]
            _ascend(_Hill(small, SECOND_EVALUATIONS, tilt, end), [end], box, SECOND_STEP, ends)
    except _NotFinite:
        pass
    distinct = [end for i, end in enumerate(ends) if not any(np.array_equal(end, one) for one in [*begun, *ends[:i]])]
    n_full = full.n_evaluations + small.n_evaluations * small.n_samples / n_samples
    return Climb(
        points=[dict(zip(vectors, end.tolist(), strict=True)) for end in distinct],
        n_evaluations=small.n_evaluations + full.n_evaluations,
        sample_cost=FORWARDS * n_full,
    )


class _NotFinite(Exception):  # noqa: N818 - the climb's end, not the caller's error
    """A value or slope is not finite."""


class _Enough(Exception):  # noqa: N818
    """An ascent has had its evaluations."""


@dataclass
class _Batch:
    """Value and slopes on so many samples, each point computed once."""

    slopes: Slopes
    vectors: Sequence[str]
    n_samples: int
    n_evaluations: int = 0
    _known: dict[bytes, tuple[float, np.ndarray]] = field(default_factory=dict)

    def knows(self, point: np.ndarray) -> bool:
        return point.tobytes() in self._known

    def at(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        if not self.knows(point):
            self.n_evaluations += 1
            value, by_name = self.slopes(dict(zip(self.vectors, point.tolist(), strict=True)), self.n_samples)
            slope = np.array([by_name[name] for name in self.vectors], dtype=float)
            if not (math.isfinite(value) and np.isfinite(slope).all()):
                raise _NotFinite
            self._known[point.tobytes()] = value, slope
        return self._known[point.tobytes()]


@dataclass
class _Hill:
    """A batch's value plus a tilt around an anchor, for a number of new evaluations; remembers the best point."""

    batch: _Batch
    n_left: int
    tilt: np.ndarray | None = None
    anchor: np.ndarray | None = None
    best: tuple[float, np.ndarray] | None = None

    def at(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        if not self.batch.knows(point):
            if not self.n_left:
                raise _Enough
            self.n_left -= 1
        value, slope = self.batch.at(point)
        if self.tilt is not None:
            value, slope = value + float(self.tilt @ (point - self.anchor)), slope + self.tilt
        if self.best is None or value > self.best[0]:
            self.best = value, point
        return value, slope


def _ascend(
    hill: _Hill, starts: Sequence[np.ndarray], box: np.ndarray, step: float, ends: list[np.ndarray]
) -> np.ndarray:
    """Climb a hill from the best of the starts; adds the best point to ``ends`` whatever ends the ascent."""
    from scipy.optimize import minimize

    def fall(scaled: Any) -> tuple[float, np.ndarray]:
        # L-BFGS opens with a step of length 1 in its own units. Unscaling may leave the box by a rounding.
        value, slope = hill.at(np.clip(np.asarray(scaled, dtype=float) * step, *box.T))
        return -value, -slope * step

    try:
        for start in starts:
            hill.at(start)
        assert hill.best is not None
        minimize(fall, hill.best[1] / step, jac=True, method="L-BFGS-B", bounds=box / step)
    except _Enough:
        pass
    finally:
        if hill.best is not None:
            ends.append(hill.best[1])
    assert hill.best is not None
    return hill.best[1]
