"""The gradient warm start: where a climb ends, what it costs, and what ends it early. Slopes of known functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from mergekit_optimer.recipe import SearchSection
from mergekit_optimer.search import gradient
from mergekit_optimer.search.gradient import FORWARDS, Climb, climb_gradient

VECTORS = ["code", "ja", "math"]
ZERO, AVERAGE = dict.fromkeys(VECTORS, 0.0), dict.fromkeys(VECTORS, 1 / 3)
CURVATURE = np.array([2.0, 0.5, 1.0])


class Hill:
    """A hill whose top depends on the samples looked at; keeps what it was asked."""

    def __init__(self, top: list[float], small_top: list[float] | None = None, n_full: int = 50) -> None:
        self.asked: list[tuple[tuple[float, ...], int]] = []
        self._top, self._small_top, self._n_full = np.array(top), np.array(small_top or top), n_full

    def __call__(self, weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:
        point = np.array([weights[name] for name in VECTORS])
        self.asked.append((tuple(point.tolist()), n_samples))
        d = point - (self._top if n_samples == self._n_full else self._small_top)
        return self.value(d), dict(zip(VECTORS, (-2 * CURVATURE * d).tolist(), strict=True))

    @staticmethod
    def value(d: np.ndarray) -> float:
        return -float(CURVATURE @ d**2)


def section(**search: Any) -> SearchSection:
    return SearchSection.model_validate({"objective": {"mean": ["dev"]}} | search)


def climb(slopes: Callable[..., Any], n_samples: int = 50, **search: Any) -> Climb:
    return climb_gradient(slopes, section(**search), VECTORS, [ZERO, AVERAGE], n_samples)


def test_one_look_at_all_samples_corrects_where_the_small_batch_leads() -> None:
    found = climb(Hill([0.7, 0.2, 0.5], small_top=[0.6, 0.3, 0.4]))
    assert len(found.points) == 2
    first, second = (np.array(list(point.values())) for point in found.points)
    assert np.abs(first - [0.6, 0.3, 0.4]).max() < 0.1
    top = np.array([0.7, 0.2, 0.5])
    assert Hill.value(second - top) > Hill.value(first - top) / 4


def test_the_better_start_is_climbed_from() -> None:
    hill = Hill([0.05, 0.0, -0.05])
    climb(hill)
    assert [point for point, _ in hill.asked[:2]] == [(0.0,) * 3, (1 / 3,) * 3]
    assert np.linalg.norm(hill.asked[2][0]) <= gradient.FIRST_STEP + 1e-9


def test_the_cost_counts_the_share_of_the_samples() -> None:
    hill = Hill([0.7, 0.2, 0.5], small_top=[0.6, 0.3, 0.4])
    found = climb(hill)
    sizes = [n for _, n in hill.asked]
    assert set(sizes) == {10, 50}
    assert sizes.count(10) <= gradient.FIRST_EVALUATIONS + gradient.SECOND_EVALUATIONS
    assert sizes.count(50) == 1
    assert found.n_evaluations == len(sizes)
    assert found.sample_cost == pytest.approx(FORWARDS * sum(sizes) / 50)


def test_a_study_of_few_samples_has_one_stage() -> None:
    hill = Hill([0.7, 0.2, 0.5], n_full=4)
    found = climb(hill, n_samples=4)
    assert {n for _, n in hill.asked} == {4}
    assert len(found.points) == 1


def test_the_interval_is_kept_exactly_and_reached() -> None:
    hill = Hill([3.0, 0.2, -3.0])
    found = climb(hill, weights={"low": -0.1, "high": 0.7})
    assert all(-0.1 <= x <= 0.7 for point, _ in hill.asked for x in point)
    assert found.points[-1]["code"] == 0.7
    assert found.points[-1]["math"] == -0.1


def test_a_start_at_the_top_gives_no_point_to_try_again() -> None:
    assert climb(Hill([0.0, 0.0, 0.0])).points == []


def test_no_start_inside_the_interval_gives_no_point() -> None:
    assert climb_gradient(Hill([0.5] * 3), section(), VECTORS, [], 50) == Climb([], 0, 0.0)


@pytest.mark.parametrize("broken", [float("nan"), float("-inf")])
def test_a_value_that_is_not_finite_ends_the_climb_with_the_best_so_far(broken: float) -> None:
    hill = Hill([0.7, 0.2, 0.5])

    def fragile(weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:
        value, slope = hill(weights, n_samples)
        return (value if len(hill.asked) < 5 else broken), slope

    found = climb(fragile)
    assert found.n_evaluations == 5
    (point,) = found.points
    best = max(hill.asked[:4], key=lambda asked: Hill.value(np.array(asked[0]) - [0.7, 0.2, 0.5]))
    assert tuple(point.values()) == best[0]


def test_a_slope_that_is_not_finite_at_the_first_start_gives_no_point() -> None:
    def broken(weights: Mapping[str, float], _n_samples: int) -> tuple[float, dict[str, float]]:
        return -1.0, dict.fromkeys(weights, float("nan"))

    found = climb(broken)
    assert (found.points, found.n_evaluations) == ([], 1)


def test_the_same_climb_again_asks_the_same() -> None:
    first, second = Hill([0.7, 0.2, 0.5]), Hill([0.7, 0.2, 0.5])
    assert climb(first) == climb(second)
    assert first.asked == second.asked
