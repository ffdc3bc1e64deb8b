"""Paired bootstrap, the two means over tasks, ranking, verdict and gaps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mergekit_optimer.compare import Comparison, Interval, compare, paired_bootstrap
from mergekit_optimer.errors import TaskError
from mergekit_optimer.scores import MetricSamples, Score, TaskScores

Scores = Callable[..., dict[str, Any]]


def plain(values: object, higher: bool = True, weights: object = None) -> MetricSamples:
    numbers = tuple(np.asarray(values, dtype=float).tolist())
    given = (1.0,) * len(numbers) if weights is None else tuple(np.asarray(weights, dtype=float).tolist())
    return MetricSamples(numbers, given, higher, -5.545 if higher else 8.0)


def one_task(samples: MetricSamples, name: str = "acc") -> TaskScores:
    return TaskScores({name: samples}, name)


def test_interval_of_a_plain_mean_agrees_with_the_analytic_standard_error() -> None:
    rng = np.random.default_rng(0)
    first, second = plain(rng.normal(0.3, 1.0, 400)), plain(rng.normal(0.0, 1.0, 400))
    interval = paired_bootstrap(first, second, seed=1)
    expected = first.minus(second)
    assert interval.difference == pytest.approx(expected.value)
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(expected.stderr, rel=0.04)


def test_interval_of_a_weighted_metric_agrees_with_the_ratio_estimators_standard_error() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(10, 500, 500)
    first = plain(rng.normal(1.9, 0.3, 500), higher=False, weights=sizes)
    second = plain(rng.normal(2.0, 0.3, 500), higher=False, weights=sizes)
    interval = paired_bootstrap(first, second, seed=1)
    expected = first.minus(second)
    assert interval.difference == pytest.approx(-expected.value)
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(expected.stderr, rel=0.05)


def test_interval_covers_the_true_difference_19_times_in_20() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for number in range(400):
        difficulty = rng.exponential(1.0, 150)
        winner = plain(difficulty + rng.normal(0.1, 0.5, 150))
        other = plain(difficulty + rng.normal(0.0, 0.5, 150))
        interval = paired_bootstrap(winner, other, n_resamples=500, seed=number)
        covered += interval.low <= 0.1 <= interval.high
    assert 0.92 <= covered / 400 <= 0.975


def test_pairing_takes_the_shared_difficulty_out() -> None:
    difficulty = np.random.default_rng(3).normal(0, 10, 300)
    interval = paired_bootstrap(plain(difficulty + 0.01), plain(difficulty), seed=0)
    assert interval.low == pytest.approx(0.01)
    assert interval.high == pytest.approx(0.01)


def test_lower_is_better_turns_the_sign() -> None:
    low, high = plain([1.0, 1.1, 0.9] * 20, higher=False), plain([2.0, 2.1, 1.9] * 20, higher=False)
    assert paired_bootstrap(low, high, seed=0).verdict == "better"
    assert paired_bootstrap(high, low, seed=0).verdict == "worse"


def test_equal_models_differ_by_exactly_zero() -> None:
    rng = np.random.default_rng(4)
    samples = plain(rng.normal(2, 1, 333), higher=False, weights=rng.integers(1, 99, 333))
    assert paired_bootstrap(samples, samples, seed=0) == Interval(0.0, 0.0, 0.0)
    assert math.copysign(1.0, paired_bootstrap(samples, samples, seed=0).difference) == 1.0


def test_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    rng = np.random.default_rng(5)
    first, second = plain(rng.normal(0, 1, 50)), plain(rng.normal(0, 1, 50))
    assert paired_bootstrap(first, second, seed=3) == paired_bootstrap(first, second, seed=3)
    assert paired_bootstrap(first, second, seed=3) != paired_bootstrap(first, second, seed=4)


def test_interval_does_not_depend_on_how_the_resamples_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    first, second = plain(rng.normal(0, 1, 50)), plain(rng.normal(0, 1, 50))
    whole = paired_bootstrap(first, second, seed=3)
    monkeypatch.setattr("mergekit_optimer.compare.bootstrap._CHUNK", 700)
    chunked = paired_bootstrap(first, second, seed=3)
    assert (chunked.low, chunked.high) == (pytest.approx(whole.low), pytest.approx(whole.high))


def test_models_scored_on_different_samples_are_refused_by_name() -> None:
    with pytest.raises(TaskError, match="different samples"):
        paired_bootstrap(plain([1, 2, 3]), plain([1, 2]), seed=0)
    held_out = {
        "winner": {"t": one_task(plain([1, 2]))},
        "base_model": {"t": one_task(plain([1, 2], weights=[1, 2]))},
    }
    with pytest.raises(TaskError, match=r"winner and base_model .* held-out task 't'"):
        compare(held_out, seed=0)


def test_missing_base_model_and_missing_task_are_named(made_scores: Scores) -> None:
    scores = made_scores({"winner": {"a": 0, "b": 0}, "base_model": {"a": 0}}, 10, 0)
    with pytest.raises(TaskError, match="lack base_model"):
        compare({"winner": scores["winner"]}, seed=0)
    with pytest.raises(TaskError, match=r"different held-out tasks \(b\)"):
        compare(scores, seed=0)


def test_like_metrics_have_the_plain_mean_in_their_own_direction() -> None:
    held_out = {
        "winner": {"a": one_task(plain([1.0, 1.2], False), "bpb"), "b": one_task(plain([2.0, 2.2], False), "bpb")},
        "base_model": {"a": one_task(plain([1.5, 1.7], False), "bpb"), "b": one_task(plain([2.5, 2.7], False), "bpb")},
    }
    found = compare(held_out, seed=0, n_resamples=100)
    assert found.mean_of == "scores"
    assert not found.mean_higher_is_better
    assert found.units == {"a": 1.0, "b": 1.0}
    assert found.means["winner"].value == pytest.approx(1.6)
    assert found.means["winner"].stderr == pytest.approx(math.hypot(0.1, 0.1) / 2)
    assert found.baselines["base_model"].mean.difference == pytest.approx(0.5)


def test_unlike_metrics_have_the_mean_of_gains_in_units_of_the_base_models_value() -> None:
    held_out = {
        "winner": {"a": one_task(plain([1.8, 1.8], False), "bpb"), "b": one_task(plain([-1.0, -1.0]), "gold_ll")},
        "base_model": {"a": one_task(plain([2.0, 2.0], False), "bpb"), "b": one_task(plain([-1.25, -1.25]), "gold_ll")},
    }
    found = compare(held_out, seed=0, n_resamples=100)
    assert found.mean_of == "relative_gains"
    assert found.mean_higher_is_better
    assert found.units == {"a": 2.0, "b": 1.25}
    # 0.2 of 2.0 is 10 %, 0.25 of 1.25 is 20 %.
    assert found.means["winner"].value == pytest.approx(0.15)
    assert found.means["base_model"] == Score(0.0, 0.0, 4)
    assert found.baselines["base_model"].mean.difference == pytest.approx(0.15)


def test_a_base_value_of_zero_counts_as_one_and_divides_nothing_by_zero() -> None:
    held_out = {
        "winner": {"a": one_task(plain([1, 0, 0, 0]), "exact_match"), "b": one_task(plain([2.0] * 4, False), "bpb")},
        "base_model": {"a": one_task(plain([0] * 4), "exact_match"), "b": one_task(plain([2.0] * 4, False), "bpb")},
    }
    found = compare(held_out, seed=0, n_resamples=100)
    assert found.units["a"] == 1.0
    assert found.means["winner"].value == pytest.approx(0.125)


def test_mean_interval_is_that_of_independently_resampled_tasks(made_scores: Scores) -> None:
    scores = made_scores({"winner": {"a": 0.1, "b": 0.1}, "base_model": {"a": 0, "b": 0}}, 300, seed=9)
    interval = compare(scores, seed=0).baselines["base_model"].mean
    paired = [
        scores["winner"][t].metrics["bits_per_byte"].minus(scores["base_model"][t].metrics["bits_per_byte"])
        for t in ("a", "b")
    ]
    expected = math.hypot(*(score.stderr for score in paired)) / 2
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(expected, rel=0.05)


def test_best_baseline_has_the_best_held_out_mean_and_carries_the_verdict(made_scores: Scores) -> None:
    shifts = {"winner": 0.1, "base_model": 0.0, "single/a": 0.3, "single/b": 0.05, "sum": -0.2}
    found = compare(made_scores({m: {"a": s, "b": s} for m, s in shifts.items()}, 200, 0), seed=0)
    assert found.ranking == ("single/a", "single/b", "base_model", "sum")
    assert found.best_baseline == "single/a"
    assert found.verdict == "worse"
    assert found.baselines["sum"].verdict == "better"


def test_a_winner_that_is_a_baseline_makes_no_clear_difference(made_scores: Scores) -> None:
    scores = made_scores({"winner": {"a": 0.1}, "base_model": {"a": 0.0}}, 100, 0)
    scores["uniform_average"] = scores["winner"]
    found = compare(scores, seed=0)
    assert found.best_baseline == "uniform_average"
    assert found.verdict == "no clear difference"


def test_a_collapsed_baseline_gets_the_floor_and_is_marked(made_scores: Scores) -> None:
    scores = made_scores({m: {"a": 0.1, "b": 0.1} for m in ("winner", "base_model", "sum")}, 20, 0)
    samples = scores["sum"]["b"].metrics["bits_per_byte"]
    nan = MetricSamples((math.nan, *samples.values[1:]), samples.weights, False, 8.0)
    scores["sum"]["b"] = one_task(nan, "bits_per_byte")
    found = compare(scores, seed=0)
    assert found.collapsed == {"sum": ("b",)}
    assert found.means["sum"].value > 4
    assert found.ranking[-1] == "sum"


def test_gap_is_held_out_minus_dev_and_negative_where_the_held_out_score_is_worse() -> None:
    held_out = {m: {"a": one_task(plain([2.2, 2.4], False), "bpb")} for m in ("winner", "base_model")}
    dev = {
        "winner": {"a": one_task(plain([2.0, 2.2], False), "bpb"), "other": one_task(plain([1, 2]))},
        "base_model": {"a": one_task(plain([2.0, 2.2]), "another_metric")},
    }
    found = compare(held_out, dev, seed=0, n_resamples=100)
    assert set(found.gaps) == {"winner"}
    assert set(found.gaps["winner"]) == {"a"}
    assert found.gaps["winner"]["a"].difference == pytest.approx(-0.2)
    assert found.gaps["winner"]["a"].stderr == pytest.approx(math.hypot(0.1, 0.1))


def test_adding_a_task_leaves_the_other_tasks_intervals_alone(made_scores: Scores) -> None:
    shifts = {"winner": 0.1, "base_model": 0.0}
    both = compare(made_scores({m: {"a": s, "b": s} for m, s in shifts.items()}, 50, 0), seed=0)
    one = compare(made_scores({m: {"a": s} for m, s in shifts.items()}, 50, 0), seed=0)
    assert both.baselines["base_model"].tasks["a"] == one.baselines["base_model"].tasks["a"]


def test_comparison_survives_json(made_scores: Scores) -> None:
    scores = made_scores({"winner": {"a": 0.1}, "base_model": {"a": 0.0}}, 20, 0)
    found = compare(scores, scores, seed=0)
    text = json.dumps(found.to_json(), sort_keys=True, allow_nan=False)
    assert Comparison.from_json(json.loads(text)) == found
