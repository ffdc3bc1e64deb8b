"""What a study tries next: the gradient's points, the surrogate's proposals, and the same weights never twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from bowl import OPTIMUM, VECTORS, Bowl, bits, make, trail

from mergekit_optimer.errors import DiskError, InfrastructureError, SearchError
from mergekit_optimer.search import agenda
from mergekit_optimer.search.gradient import Climb
from mergekit_optimer.search.proposals import Point

GRADIENT = ["zero", "uniform_average", "half", "singles", "gradient"]
POINTS = [{"code": 0.6, "ja": 0.4, "math": -0.1}, {"code": 0.5, "ja": 0.5, "math": 0.5}]


def slopes(weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:
    value = -sum(bits(weights, sample) for sample in range(n_samples)) / n_samples
    return value, {name: -2 * (weights[name] - OPTIMUM[name]) for name in VECTORS}


class Climber:
    """Stands in for the climb: gives fixed points, remembers what it was asked, fails when told to."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.starts: list[list[dict[str, float]]] = []
        self._error = error

    def __call__(self, _slopes: Any, _spec: Any, _vectors: Any, starts: Sequence[Any], n_samples: int) -> Climb:
        self.starts.append([dict(start) for start in starts])
        if self._error is not None:
            raise self._error
        return Climb(POINTS, n_evaluations=7, sample_cost=4.2 * n_samples / 20)


@pytest.fixture
def climber(monkeypatch: pytest.MonkeyPatch) -> Climber:
    stand_in = Climber()
    monkeypatch.setattr(agenda, "climb_gradient", stand_in)
    return stand_in


def test_the_gradients_points_come_after_the_other_warm_starts(
    tmp_path: Path, climber: Climber, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mergekit_optimer")
    result = make(tmp_path, Bowl(), slopes, n_trials=10, warm_starts=GRADIENT).run()
    assert [record.source for record in result.trials[5:9]] == [
        "warm_start/single/math",
        "warm_start/gradient/1",
        "warm_start/gradient/2",
        "sampler",
    ]
    assert result.trials[6].weights == POINTS[0]
    assert climber.starts == [[dict.fromkeys(VECTORS, 0.0), dict.fromkeys(VECTORS, 1 / 3)]]
    assert result.to_json()["gradient"] == {"n_evaluations": 7, "sample_cost": 4.2}
    assert "gradient: 7 evaluations at the cost of 4.2 trials gave 2 weight vectors" in caplog.messages


def test_the_seconds_of_a_climb_are_kept_with_it(
    tmp_path: Path, climber: Climber, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert climber.starts == []
    moments = iter([100.0, 112.5])
    monkeypatch.setattr(agenda, "clock", lambda: next(moments))
    make(tmp_path, Bowl(), slopes, n_trials=7, warm_starts=GRADIENT).run()
    assert make(tmp_path, Bowl(), slopes, n_trials=7, warm_starts=GRADIENT).run().to_json()["gradient_s"] == 12.5
    assert make(tmp_path / "plain", Bowl(), n_trials=1).run().to_json()["gradient_s"] == 0.0


def test_a_climb_is_kept_in_the_study_and_not_done_again(tmp_path: Path, climber: Climber) -> None:
    whole = make(tmp_path / "whole", Bowl(), slopes, n_trials=10, warm_starts=GRADIENT).run()
    for n in (7, 8, 10):
        parts = make(tmp_path / "parts", Bowl(), slopes, n_trials=n, warm_starts=GRADIENT).run()
    assert trail(parts.trials) == trail(whole.trials)
    assert len(climber.starts) == 2


def test_a_study_without_gradient_climbs_nothing(tmp_path: Path, climber: Climber) -> None:
    assert make(tmp_path, Bowl(), slopes, n_trials=8).run().to_json()["gradient"] is None
    assert climber.starts == []


def test_a_backward_pass_that_does_not_fit_leaves_the_gradient_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agenda, "climb_gradient", Climber(InfrastructureError("Out of memory in backward.")))
    result = make(tmp_path, Bowl(), slopes, n_trials=8, warm_starts=GRADIENT).run()
    assert result.trials[6].source == "sampler"
    assert "gradient warm start left out: InfrastructureError: Out of memory in backward." in caplog.messages
    assert (result.gradient, result.gradient_s) == (None, 0.0)


def test_a_climb_that_did_not_fit_is_tried_once_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, freed = Climber(MemoryError()), Climber()
    monkeypatch.setattr(agenda, "climb_gradient", full)
    make(tmp_path, Bowl(), slopes, n_trials=9, warm_starts=GRADIENT).run()
    assert len(full.starts) == 1
    monkeypatch.setattr(agenda, "climb_gradient", freed)
    result = make(tmp_path, Bowl(), slopes, n_trials=12, warm_starts=GRADIENT).run()
    assert len(freed.starts) == 1
    assert [record.source for record in result.trials[8:]] == [
        "sampler",
        "warm_start/gradient/1",
        "warm_start/gradient/2",
        "sampler",
    ]


def test_a_full_disk_during_the_climb_stops_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agenda, "climb_gradient", Climber(DiskError("No space left.")))
    with pytest.raises(DiskError):
        make(tmp_path, Bowl(), slopes, n_trials=8, warm_starts=GRADIENT).run()


def test_a_gradient_without_slopes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="gradient needs a model with slopes"):
        make(tmp_path, Bowl(), warm_starts=GRADIENT)


def test_the_same_weights_are_not_scored_twice(
    tmp_path: Path, climber: Climber, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mergekit_optimer")
    assert climber.starts == []
    bowl = Bowl()
    rungs = [{"n_samples": 20}, {"n_samples": 40, "top": 20}]
    result = make(tmp_path, bowl, slopes, n_trials=8, warm_starts=GRADIENT, rungs=rungs).run()
    half, again = result.trials[2], result.trials[7]
    assert (half.weights, again.weights) == (POINTS[1], POINTS[1])
    assert (again.same_as, again.merge_s, again.score_s) == (2, 0.0, 0.0)
    assert again.values[20] == half.values[20]
    assert len(result.trials) == 8
    assert [weights for weights, _, stop in bowl.asked if stop == 20].count(POINTS[1]) == 1
    # Nor do they climb twice.
    assert [weights for weights, _, stop in bowl.asked if stop == 40].count(POINTS[1]) == 1
    assert any("same as #2" in message for message in caplog.messages)
    assert result.to_json()["n_same"] == 1


def test_a_trial_of_weights_that_were_tried_has_their_merge_beside_it(tmp_path: Path, climber: Climber) -> None:
    assert climber.starts == []

    def write_trial(trial_dir: Path, weights: dict[str, float]) -> None:
        trial_dir.mkdir(parents=True, exist_ok=True)
        (trial_dir / "merge.yaml").write_text(f"weights: {weights}")

    make(tmp_path, Bowl(), slopes, write_trial=write_trial, n_trials=8, warm_starts=GRADIENT).run()
    trials = tmp_path / "run/trials"
    assert (trials / "0007/merge.yaml").read_text() == (trials / "0002/merge.yaml").read_text()


def test_a_duplicate_of_what_has_climbed_is_as_the_other_was_before(tmp_path: Path, climber: Climber) -> None:
    assert climber.starts == []
    rungs = [{"n_samples": 20}, {"n_samples": 40, "top": 20}]
    search: dict[str, Any] = {"warm_starts": GRADIENT, "rungs": rungs}
    make(tmp_path / "parts", Bowl(), slopes, n_trials=7, **search).run()
    parts = make(tmp_path / "parts", Bowl(), slopes, n_trials=8, **search).run()
    whole = make(tmp_path / "whole", Bowl(), slopes, n_trials=8, **search).run()
    assert (parts.trials[7].same_as, parts.trials[7].n_samples) == (2, 20)
    assert parts.trials[7] == whole.trials[7]


def propose_fixed(seen: list[tuple[list[Point], list[dict[str, float]], int]]) -> Any:
    def propose(
        _spec: Any, vectors: Sequence[str], done: list[Point], pending: list[dict[str, float]], _seed: int, n_done: int
    ) -> dict[str, float] | None:
        seen.append((done, pending, n_done))
        return None if n_done % 2 else dict.fromkeys(vectors, 0.01 * n_done)

    return propose


def test_the_surrogate_is_asked_after_the_warm_starts_and_told_of_every_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[Point], list[dict[str, float]], int]] = []
    monkeypatch.setattr(agenda, "propose", propose_fixed(seen))
    result = make(tmp_path, Bowl(), n_trials=10, sampler={"assist": "quadratic"}).run()
    assert [record.source for record in result.trials[6:]] == ["surrogate", "sampler", "surrogate", "sampler"]
    assert result.trials[8].weights == dict.fromkeys(VECTORS, 0.08)
    assert [n_done for _, _, n_done in seen] == [6, 7, 8, 9]
    done, pending, _ = seen[-1]
    assert pending == []
    assert [(point.weights, point.value, point.source) for point in done] == [
        (record.weights, record.value, record.source) for record in result.trials[:9]
    ]


def test_the_surrogate_sees_what_keep_rejects_as_worse_than_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[Point], list[dict[str, float]], int]] = []
    monkeypatch.setattr(agenda, "propose", propose_fixed(seen))
    objective = {"mean": ["dev"], "gain_over_base": True, "keep": {"en": 0.05}}
    result = make(tmp_path, Bowl(), n_trials=7, sampler={"assist": "quadratic"}, objective=objective).run()
    done, _, _ = seen[0]
    for point, record in zip(done, result.trials, strict=False):
        if record.is_kept:
            assert point.value == record.value
        else:
            en, base = (trial.scores["en"].score.value for trial in (record, result.trials[0]))
            assert point.value == pytest.approx(record.value - 10 * ((en - base) / base - 0.05))
    assert not all(record.is_kept for record in result.trials[:6])


def test_surrogate_and_gradient_find_the_optimum_of_a_bowl_in_few_trials(tmp_path: Path) -> None:
    sampler = {"assist": "quadratic"}
    result = make(tmp_path / "quadratic", Bowl(), n_trials=24, sampler=sampler).run()
    plain = make(tmp_path / "tpe", Bowl(), n_trials=24).run()
    assert result.winner.value > plain.winner.value
    climbed = make(tmp_path / "gradient", Bowl(), slopes, n_trials=8, warm_starts=GRADIENT).run()
    assert climbed.winner.weights == pytest.approx(OPTIMUM, abs=0.02)
    assert climbed.winner.source.startswith("warm_start/gradient/")


def test_an_assisted_study_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    search = {"sampler": {"assist": "quadratic"}, "warm_starts": GRADIENT}
    whole = make(tmp_path / "whole", Bowl(), slopes, n_trials=18, **search).run()
    for n in range(4, 19, 2):
        parts = make(tmp_path / "parts", Bowl(), slopes, n_trials=n, **search).run()
    assert trail(parts.trials) == trail(whole.trials)
