"""A finished study's trials under another objective: ranked for free, then searched on from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from bowl import VECTORS, Bowl, bits, make, trail

from mergekit_optimer.errors import SearchError
from mergekit_optimer.files import read_json
from mergekit_optimer.search import TrialRecord

EN = {"mean": ["en"]}
RUNGS = [{"n_samples": 20}, {"n_samples": 60, "top": 3}]
RACE = {"race": True, "rungs": [{"n_samples": 300}]}


@pytest.fixture
def finished(tmp_path: Path) -> list[TrialRecord]:
    """The trials of a study whose objective is "dev"; "en" was scored too."""
    return make(tmp_path / "first", Bowl(), rungs=RUNGS).run().trials


def test_ranking_by_another_objective_scores_nothing(tmp_path: Path, finished: list[TrialRecord]) -> None:
    bowl = Bowl()
    search = make(tmp_path, bowl, rungs=RUNGS, objective=EN)
    assert search.adopt(finished, "first") == 12
    result = search.run(rank_only=True)
    assert bowl.asked == []
    best = min(finished, key=lambda record: (record.scores["en"].head(20).score.value, record.number))
    assert (result.winner.weights, result.winner.origin) == (best.weights, f"first#{best.number}")
    summary = result.to_json()
    assert (summary["n_adopted"], summary["n_run"], summary["merge_s"], summary["score_s"]) == (12, 0, 0.0, 0.0)


def test_adopted_trials_are_valued_as_if_they_had_been_run_here(tmp_path: Path) -> None:
    objective = {"mean": ["en", "dev"], "gain_over_base": True, "keep": {"en": 0.05}}
    one_fell = Bowl(lambda call, _weights: math.nan if call == 4 else None)
    ran = make(tmp_path / "a", one_fell, rungs=[{"n_samples": 20}], n_trials=10, objective=objective).run().trials
    source = make(tmp_path / "b", one_fell, rungs=[{"n_samples": 20}], n_trials=10, objective={"mean": ["en"]}).run()
    again = make(tmp_path / "c", Bowl(), rungs=[{"n_samples": 20}], objective={"mean": ["en"]})
    again.adopt(ran, "a")
    back = make(tmp_path / "d", Bowl(), rungs=[{"n_samples": 20}], objective=objective)
    back.adopt(again.records(), "c")
    assert [(r.weights, r.values, r.kept, r.collapsed) for r in back.records()] == [
        (r.weights, r.values, r.kept, r.collapsed) for r in ran
    ]
    assert len(source.trials) == 10


def test_the_study_goes_on_from_them_and_counts_only_its_own(
    tmp_path: Path, finished: list[TrialRecord], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mergekit_optimer")
    bowl = Bowl()
    search = make(tmp_path, bowl, n_trials=5, objective=EN, warm_starts=["zero", "half", "sum"])
    search.adopt(finished, "first")
    assert caplog.messages[-1].startswith("12 trials of first ranked by this objective, none scored; best dev -1.0")
    result = search.run()
    # zero and half are among the adopted; only sum is new.
    assert [record.source for record in result.trials[12:]] == ["warm_start/sum", *["sampler"] * 4]
    assert [record.origin for record in result.trials] == [*(f"first#{n}" for n in range(12)), *[None] * 5]
    assert len(bowl.asked) == 5
    assert (result.to_json()["n_adopted"], result.to_json()["n_run"]) == (12, 5)
    assert result.to_json()["merge_s"] == pytest.approx(0.5)
    assert any(message.startswith("trial 5/5") for message in caplog.messages)


def test_the_adopted_teach_the_sampler(tmp_path: Path, finished: list[TrialRecord]) -> None:
    with_them = make(tmp_path / "with", Bowl(), n_trials=1, objective={"mean": ["dev"]}, warm_starts=[])
    with_them.adopt(finished, "first")
    own = with_them.run().trials[-1]
    without = make(tmp_path / "without", Bowl(), n_trials=1, warm_starts=[]).run().trials[-1]
    assert own.weights != without.weights


def test_adopting_again_changes_nothing_and_a_half_adopted_run_is_completed(
    tmp_path: Path, finished: list[TrialRecord]
) -> None:
    whole = make(tmp_path / "whole", Bowl(), n_trials=4, objective=EN)
    whole.adopt(finished, "first")
    first = make(tmp_path / "parts", Bowl(), n_trials=4, objective=EN)
    assert first.adopt(finished[:5], "first") == 5
    # Killed after the next trial's file was written and before the journal knew of it.
    orphan = tmp_path / "parts/run/trials/0005/scores.json"
    orphan.parent.mkdir(parents=True)
    orphan.write_text("{}")
    again = make(tmp_path / "parts", Bowl(), n_trials=4, objective=EN)
    assert again.adopt(finished, "first") == 7
    assert trail(again.run().trials) == trail(whole.run().trials)
    resumed = make(tmp_path / "parts", Bowl(), n_trials=6, objective=EN)
    assert resumed.adopt(finished, "first") == 0
    assert len(resumed.run().trials) == 12 + 6


def test_higher_rungs_are_kept_and_only_what_is_missing_is_scored(tmp_path: Path, finished: list[TrialRecord]) -> None:
    bowl = Bowl()
    search = make(tmp_path, bowl, n_trials=1, rungs=RUNGS, objective=EN, warm_starts=["sum"])
    search.adopt(finished, "first")
    climbed = {record.number for record in finished if record.n_samples == 60}
    records = {record.number: record for record in search.records()}
    assert {n for n, record in records.items() if 60 in record.values} == climbed
    best = sorted(records.values(), key=lambda record: (-record.values[20], record.number))[:3]
    result = search.run()
    later = [weights for weights, _, stop in bowl.asked if stop == 60]
    assert later == [record.weights for record in best if record.number not in climbed]
    assert 60 in result.winner.values
    assert read_json(tmp_path / f"run/trials/{result.winner.number:04d}/scores.json")["n_samples"] == 60


def test_a_higher_rung_is_judged_once_the_base_has_its_samples(tmp_path: Path, finished: list[TrialRecord]) -> None:
    objective = {"mean": ["dev"], "gain_over_base": True}
    bowl = Bowl()
    search = make(tmp_path, bowl, n_trials=1, rungs=RUNGS, objective=objective)
    search.adopt(finished, "first")
    # The base was not among the best three of the first study, so it has 20 samples where they have 60.
    assert all(60 not in record.values for record in search.records())
    result = search.run()
    asked = [weights for weights, _, stop in bowl.asked if stop == 60]
    assert asked[0] == dict.fromkeys(VECTORS, 0.0)
    assert [weights for weights in asked[1:] if weights != result.trials[-1].weights] == []
    base, best = (record.scores["dev"].score.value for record in (result.trials[0], result.winner))
    assert result.winner.values[60] == pytest.approx((base - best) / base)


def test_a_stopped_trial_is_told_by_its_difference_to_the_best_whole_one(tmp_path: Path) -> None:
    raced = make(tmp_path / "race", Bowl(), n_trials=14, **RACE).run().trials
    search = make(tmp_path, Bowl(), objective=EN, **RACE)
    search.adopt(raced, "race")
    adopted = search.records()
    stopped = [record for record in adopted if record.stopped == "race"]
    whole = [record for record in adopted if record.stopped is None]
    assert stopped
    best = max(whole, key=lambda record: record.value)
    for record in stopped:
        mine, theirs = (one.scores["en"].head(record.n_samples).score.value for one in (record, best))
        assert record.value == pytest.approx(best.value + theirs - mine)
        assert not record.is_kept
    assert search.run(rank_only=True).winner == best


def test_what_a_race_stopped_is_scored_anew_where_this_objective_puts_it_above_the_best(tmp_path: Path) -> None:
    def code_hurts_english(weights: Mapping[str, float], sample: int, task: str) -> float:
        return 2.0 + weights["code"] + 0.01 * (sample % 5) if task == "en" else bits(weights, sample)

    raced = make(tmp_path / "race", Bowl(bits=code_hurts_english), n_trials=20, **RACE).run().trials
    bowl = Bowl(bits=code_hurts_english)
    search = make(tmp_path, bowl, objective=EN, n_trials=3, **RACE)
    search.adopt(raced, "race")
    best_stopped = min((r for r in raced if r.stopped == "race"), key=lambda record: record.weights["code"])
    assert best_stopped.weights["code"] < 0
    first, second, third = search.run().trials[20:]
    assert (first.weights, first.source, first.stopped) == (best_stopped.weights, "adopted", None)
    # It is the best now, so no other that was stopped looks better.
    assert (second.source, third.source) == ("sampler", "sampler")


def test_a_duplicate_is_adopted_once(tmp_path: Path, finished: list[TrialRecord]) -> None:
    twin = TrialRecord(**vars(finished[2]) | {"number": 12, "same_as": 2})
    search = make(tmp_path, Bowl(), rungs=RUNGS, objective=EN)
    assert search.adopt([*finished, twin], "first") == 12


def test_trials_without_the_base_they_are_measured_against_are_refused_before_any_is_entered(
    tmp_path: Path, finished: list[TrialRecord]
) -> None:
    study = make(tmp_path, Bowl(), objective={"mean": ["dev"], "gain_over_base": True})
    with pytest.raises(SearchError, match="No trial of first is the base model"):
        study.adopt([record for record in finished if any(record.weights.values())], "first")
    assert study.records() == []


def test_a_trial_that_collapsed_on_a_higher_rung_only_is_kept_at_the_first(tmp_path: Path) -> None:
    best: dict[str, float] = {}

    def falls(weights: Mapping[str, float], sample: int, task: str) -> float:
        best.update({} if sample < 20 or best else weights)
        return math.nan if sample >= 20 and dict(weights) == best else bits(weights, sample, task)

    first = make(tmp_path / "first", Bowl(bits=falls), rungs=RUNGS).run()
    (fallen,) = [record for record in first.trials if record.collapsed]
    assert (fallen.kept, fallen.collapsed_at) == ({20: True, 60: False}, {"dev": 60, "en": 60})
    again = make(tmp_path / "again", Bowl(), rungs=RUNGS, n_trials=13, warm_starts=[])
    again.adopt(first.trials, "first")
    twin = again.records()[fallen.number]
    assert (twin.kept, twin.values, twin.scores) == (fallen.kept, fallen.values, fallen.scores)
    # What the study goes on from is that trial, not its later fall.
    assert again._ledger.incumbent() == twin


def test_the_folder_of_an_adopted_trial_is_made_by_the_caller_before_its_scores(
    tmp_path: Path, finished: list[TrialRecord]
) -> None:
    made = []

    def write(trial_dir: Path, weights: Mapping[str, float]) -> None:
        assert not (trial_dir / "scores.json").exists()
        made.append((trial_dir.name, dict(weights)))

    make(tmp_path, Bowl(), write_trial=write, rungs=RUNGS, objective=EN).adopt(finished, "first")
    assert made == [(f"{record.number:04d}", record.weights) for record in finished]


def test_nothing_to_rank_is_said(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="no finished trial to rank"):
        make(tmp_path, Bowl()).run(rank_only=True)


def test_a_gradient_of_another_objective_is_climbed_anew(
    tmp_path: Path, finished: list[TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergekit_optimer.search import agenda
    from mergekit_optimer.search.gradient import Climb

    point = {"code": 0.2, "ja": 0.1, "math": -0.4}
    monkeypatch.setattr(agenda, "climb_gradient", lambda *_: Climb([point], 3, 1.0))
    theirs = TrialRecord(**vars(finished[7]) | {"source": "warm_start/gradient/1"})
    search = make(
        tmp_path, Bowl(), lambda _weights, _n: (0.0, {}), n_trials=1, objective=EN, warm_starts=["zero", "gradient"]
    )
    search.adopt([*finished[:7], theirs], "first")
    own = search.run().trials[-1]
    assert (own.source, own.weights) == ("warm_start/gradient/1", point)
