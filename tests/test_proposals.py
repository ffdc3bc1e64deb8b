"""Proposals: the samplers by name, whose turn it is, and the quadratic surrogate on known bowls."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mergekit_optimer.recipe import SamplerSpec, SearchSection
from mergekit_optimer.search import quadratic
from mergekit_optimer.search.proposals import Point, make_sampler, propose, warm_start_weights
from mergekit_optimer.search.quadratic import propose_quadratic

VECTORS = ["code", "ja", "math", "zh"]
OPTIMUM = np.array([0.6, 0.3, 0.7, -0.2])
BOX = [(-0.5, 1.25)] * 4


def bowl(point: Sequence[float]) -> float:
    """A bowl with interactions, of very unequal curvatures."""
    d = np.array(point) - OPTIMUM
    return -float(3 * d[0] ** 2 + d[1] ** 2 + 0.5 * d[2] ** 2 + 2 * d[3] ** 2 + 0.8 * d[0] * d[1])


def section(**search: Any) -> SearchSection:
    given = {"objective": {"mean": ["dev"]}, "sampler": {"assist": "quadratic"}} | search
    return SearchSection.model_validate(given)


def warm_points(value: Callable[[Sequence[float]], float] = bowl) -> list[Point]:
    starts = warm_start_weights(VECTORS, ["zero", "uniform_average", "half", "sum", "singles"])
    return [Point(w, value(list(w.values())), f"warm_start/{name}", False) for name, w in starts.items()]


def study(n: int, value: Callable[[Sequence[float]], float] = bowl, seed: int = 3) -> list[Point]:
    """Warm starts, then what the surrogate proposes; where it is the sampler's turn, a random point."""
    done = warm_points(value)
    rng = np.random.default_rng(seed)
    while len(done) < n:
        weights, source = propose(section(), VECTORS, done, [], seed, len(done)), "surrogate"
        if weights is None:
            weights, source = dict(zip(VECTORS, rng.uniform(-0.5, 1.25, 4).tolist(), strict=True)), "sampler"
        done.append(Point(weights, value(list(weights.values())), source, False))
    return done


def arrays(points: Sequence[Point]) -> tuple[list[list[float]], list[float]]:
    return [list(point.weights.values()) for point in points], [point.value for point in points]


def gain(points: Sequence[Point]) -> float:
    """Share of the way from zero weights to the optimum that the best point has come."""
    base = bowl([0.0] * 4)
    return (max(bowl(list(point.weights.values())) for point in points) - base) / -base


def test_three_of_four_proposals_are_the_surrogates() -> None:
    done = study(len(warm_points()) + 8)
    sources = [point.source for point in done if not point.source.startswith("warm_start/")]
    assert sources == ["surrogate", "surrogate", "surrogate", "sampler"] * 2


def test_without_assist_the_sampler_proposes() -> None:
    plain = section(sampler={"name": "tpe", "assist": "none"})
    assert propose(plain, VECTORS, warm_points(), [], 0, 8) is None


def test_fewer_than_k_plus_two_finite_points_are_left_to_the_sampler() -> None:
    done = warm_points()
    spoilt = [Point(p.weights, float("nan"), p.source, False) if i > 4 else p for i, p in enumerate(done)]
    assert propose(section(), VECTORS, spoilt, [], 0, 8) is None
    assert propose(section(), VECTORS, done[:6], [], 0, 6) is not None


def test_a_proposal_depends_on_the_trials_and_the_seed_only() -> None:
    done = warm_points()
    assert propose(section(), VECTORS, done, [], 1, 8) == propose(section(), VECTORS, list(done), [], 1, 8)
    assert propose(section(), VECTORS, done, [], 1, 8) != propose(section(), VECTORS, done, [], 2, 8)


def test_a_proposal_after_a_trial_was_given_up_is_another_one() -> None:
    done = warm_points()
    assert propose(section(), VECTORS, done, [], 1, 8) != propose(section(), VECTORS, done, [], 1, 9)


def test_proposals_keep_inside_each_vectors_own_interval() -> None:
    narrow = {name: {"low": -0.1 * i, "high": 0.2 + 0.1 * i} for i, name in enumerate(VECTORS)}
    spec = section(weights=narrow)
    done = [p for p in warm_points() if all(narrow[v]["low"] <= w <= narrow[v]["high"] for v, w in p.weights.items())]
    done += [Point({v: 0.01 * (i + j) for j, v in enumerate(VECTORS)}, 0.1 * i, "x", False) for i in range(8)]
    for seed in range(8):
        weights = propose(spec, VECTORS, done, [], seed, len(done))
        assert weights is not None
        assert all(narrow[v]["low"] <= weight <= narrow[v]["high"] for v, weight in weights.items())


def test_the_surrogate_finds_a_bowls_optimum_in_twenty_trials() -> None:
    for seed in (1, 2, 3):
        assert gain(study(20, seed=seed)) > 0.97


def test_the_surrogate_goes_on_to_the_optimum() -> None:
    assert gain(study(40)) > 0.999


def test_noise_of_a_finite_dev_set_does_not_lead_it_astray() -> None:
    def noisy(point: Sequence[float]) -> float:
        return bowl(point) + 0.1 * float(np.sin(9 * np.array(point) @ [1.0, 2.0, 3.0, 5.0]))

    assert gain(study(40, noisy)) > 0.9


def test_collapsed_points_do_not_bend_the_bowl() -> None:
    def cliff(point: Sequence[float]) -> float:
        return bowl(point) if sum(point) < 1.9 else -40.0

    done = [Point(p.weights, p.value, p.source, p.value == -40.0) for p in study(24, cliff)]
    points, values = arrays(done)
    collapsed = [point.collapsed for point in done]
    assert sum(collapsed) >= 1
    found = [propose_quadratic(points, values, [], BOX, seed, collapsed=collapsed) for seed in range(10)]
    assert np.median([np.abs(np.array(point) - OPTIMUM).max() for point in found]) < 0.35


def test_a_pending_point_is_not_proposed_again() -> None:
    points, values = arrays(study(40))
    first = propose_quadratic(points, values, [], BOX, seed=7)
    second = propose_quadratic(points, values, [first], BOX, seed=7)
    assert second != first
    weights = dict(zip(VECTORS, first, strict=True))
    assert propose(section(), VECTORS, study(13), [weights], 7, 13) != weights


def test_a_point_already_tried_is_not_proposed_again() -> None:
    """The optimum is the corner of the box, which was tried: every draw's maximum is there."""
    corner = [1.25] * 4
    rng = np.random.default_rng(0)
    points = [corner, *rng.uniform(0.8, 1.25, (30, 4)).tolist()]
    values = [10 * sum(point) for point in points]
    for seed in range(5):
        found = propose_quadratic(points, values, [], BOX, seed)
        assert found not in points
        assert all(-0.5 <= x <= 1.25 for x in found)


@pytest.mark.parametrize("k", [1, 2, 16])
def test_it_works_for_any_number_of_vectors(k: int) -> None:
    rng = np.random.default_rng(k)
    points = rng.uniform(-0.5, 1.25, (k + 2, k)).tolist()
    found = propose_quadratic(points, [-sum(x * x for x in point) for point in points], [], [(-0.5, 1.25)] * k, 0)
    assert len(found) == k


@pytest.mark.parametrize(
    "values", [[1.0] * 300, [float(i % 7 == 0) for i in range(300)], [-(2.0**i) for i in range(300)]]
)
def test_equal_coarse_and_wild_scores_of_many_equal_points_still_give_a_proposal(values: list[float]) -> None:
    points = [[0.1 * (i % 5), 0.2, 0.1 * (i % 3), 0.0] for i in range(300)]
    found = propose_quadratic(points, values, [[0.5] * 4], BOX, 0, collapsed=[value < -1e6 for value in values])
    assert np.isfinite(found).all()


def test_all_points_collapsed_still_gives_a_proposal() -> None:
    points, values = arrays(warm_points())
    assert np.isfinite(propose_quadratic(points, values, [], BOX, 0, collapsed=[True] * len(values))).all()


def test_the_gradient_is_no_fixed_warm_start() -> None:
    assert list(warm_start_weights(VECTORS, ["zero", "gradient"])) == ["zero"]


def run_sampler(name: str, n: int, journal: Path, seed: int = 4) -> list[dict[str, float]]:
    """Bring a study to n trials as the search does: a new sampler for every proposal, warm starts first."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    opened = optuna.create_study(storage=storage, study_name="s", direction="maximize", load_if_exists=True)
    space = {name: optuna.distributions.FloatDistribution(-0.5, 1.25) for name in VECTORS}
    while (n_done := len(opened.trials)) < n:
        if n_done < 2:
            opened.enqueue_trial(dict.fromkeys(VECTORS, 0.5 * n_done))
        spec = SamplerSpec.model_validate({"name": name, "n_startup_trials": 6})
        opened.sampler = make_sampler(spec, seed, n_done)
        trial = opened.ask(space)
        opened.tell(trial, bowl([trial.params[vector] for vector in VECTORS]))
    return [trial.params for trial in opened.trials]


@pytest.mark.parametrize("name", ["tpe", "gp", "random", "qmc"])
def test_every_sampler_goes_on_as_if_uninterrupted_says_nothing_and_never_repeats(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    n, stop = (10, 8) if name == "gp" else (18, 9)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        whole = run_sampler(name, n, tmp_path / "whole")
        run_sampler(name, stop, tmp_path / "parts")
        parts = run_sampler(name, n, tmp_path / "parts")
    assert whole == parts
    assert len({tuple(weights.values()) for weights in whole}) == n
    assert whole[2:] != run_sampler("random", n, tmp_path / "other", seed=5)[2:]
    assert not caplog.records
    assert "W" not in capfd.readouterr().err


def cma_study(n: int, value: Callable[[Sequence[float]], float] = bowl) -> list[Point]:
    spec, done = section(sampler={"name": "cmaes"}), warm_points(value)
    while len(done) < n:
        weights = propose(spec, VECTORS, done, [], 4, len(done))
        assert weights is not None
        done.append(Point(weights, value(list(weights.values())), "sampler", False))
    return done


def test_cmaes_learns_from_its_own_trials() -> None:
    """Without them every proposal would be a first draw around the middle of the box."""
    values = [point.value for point in cma_study(88)]
    assert np.mean(values[-20:]) > np.mean(values[8:28]) + 0.4


def test_cmaes_does_not_take_warm_starts_and_adopted_trials_for_its_own() -> None:
    spec, done = section(sampler={"name": "cmaes"}), cma_study(24)
    theirs = [Point(point.weights, 0.0, "sampler", False, is_own=False) for point in done]
    assert propose(spec, VECTORS, [*theirs, *done], [], 4, 24) == propose(spec, VECTORS, done[8:], [], 4, 24)


def test_cmaes_draws_another_point_while_one_is_pending_and_stays_inside() -> None:
    spec = section(sampler={"name": "cmaes"}, weights={"low": 0.3, "high": 0.30001})
    first = propose(spec, VECTORS, [], [], 4, 0)
    assert first is not None
    second = propose(spec, VECTORS, [], [first], 4, 0)
    assert second is not None
    assert first != second
    assert all(0.3 <= weight <= 0.30001 for weight in [*first.values(), *second.values()])


def test_tpe_takes_trials_in_the_air_for_bad_ones_whatever_the_recipe_says() -> None:
    spec = SamplerSpec(name="tpe", assist="none")
    assert spec.constant_liar is False
    alone, beside_others = (make_sampler(spec, 3, 20, others_run) for others_run in (False, True))
    assert (alone._constant_liar, beside_others._constant_liar) == (False, True)


def test_the_surrogate_says_the_same_of_many_points_by_its_quick_way() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (90, 4))
    depths = -((points - 0.2) ** 2).sum(1) - 0.3 * np.abs(rng.normal(size=90))
    lost = rng.random(90) < 0.1
    features, groups = quadratic._features(points), quadratic._groups(4)
    variances = quadratic.SCALES**2 * np.exp(rng.normal(size=7))
    slow, quick = (
        way(features, groups, depths, lost) for way in (quadratic._over_points, quadratic._over_coefficients)
    )
    (value, slope), (same_value, same_slope) = slow(variances), quick(variances)
    assert same_value == pytest.approx(value, rel=1e-9)
    assert same_slope == pytest.approx(slope, rel=1e-7)
