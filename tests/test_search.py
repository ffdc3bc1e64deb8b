"""The study: what it proposes, what it survives, and how it picks the winner. Scored by a known function, no model."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bowl import OPTIMUM, VECTORS, Bowl, bits, make, recipe, trail

from mergekit_optimer.errors import DiskError, InfrastructureError, SearchError
from mergekit_optimer.files import read_json
from mergekit_optimer.recipe import Objective
from mergekit_optimer.runs import RunDir
from mergekit_optimer.scores import MetricSamples, TaskScores
from mergekit_optimer.search import InProcess, Search, TrialRecord, judge, unit, warm_start_weights
from mergekit_optimer.search.journal import JournalFile
from mergekit_optimer.search.ledger import packed
from mergekit_optimer.search.objective import describe


def test_warm_starts_come_first_and_count_as_trials(tmp_path: Path) -> None:
    result = make(tmp_path, Bowl()).run()
    assert [record.source for record in result.trials[:6]] == [
        "warm_start/zero",
        "warm_start/uniform_average",
        "warm_start/half",
        "warm_start/single/code",
        "warm_start/single/ja",
        "warm_start/single/math",
    ]
    assert len(result.trials) == 12
    assert result.trials[6].source == "sampler"


def test_equal_warm_starts_are_tried_once() -> None:
    assert list(warm_start_weights(["only"], ["uniform_average", "sum", "singles", "zero"])) == [
        "uniform_average",
        "zero",
    ]


def test_the_search_improves_on_its_warm_starts(tmp_path: Path) -> None:
    result = make(tmp_path, Bowl(), n_trials=40).run()
    best_warm = max(record.value for record in result.trials[:6])
    assert result.winner.value > best_warm
    assert result.winner.value == max(record.value for record in result.trials)


def test_the_same_seed_gives_the_same_study(tmp_path: Path) -> None:
    first = make(tmp_path / "a", Bowl(), n_trials=15).run()
    second = make(tmp_path / "b", Bowl(), n_trials=15).run()
    assert trail(first.trials) == trail(second.trials)


def test_an_interrupted_study_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", Bowl(), n_trials=16).run()

    def stop_at(n: int) -> Callable[[int, Mapping[str, float]], None]:
        def spoil(call: int, _weights: Mapping[str, float]) -> None:
            if call == n:
                raise KeyboardInterrupt

        return spoil

    for n in (3, 9, 2):
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "parts", Bowl(stop_at(n)), n_trials=16).run()
    assert trail(make(tmp_path / "parts", Bowl(), n_trials=16).run().trials) == trail(whole.trials)


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes", "random", "qmc"])
def test_whatever_proposes_a_trial_that_was_interrupted_is_not_asked_again(tmp_path: Path, name: str) -> None:
    at, n = ((3, 8, 10), 10) if name == "gp" else ((3, 8, 14, 25), 30)
    search: dict[str, Any] = {"n_trials": n, "sampler": {"name": name, "assist": "none", "n_startup_trials": 6}}
    whole = make(tmp_path / "whole", Bowl(), **search).run()

    def spoil(call: int, _weights: Mapping[str, float]) -> None:
        if call in at:
            raise KeyboardInterrupt

    bowl = Bowl(spoil)
    for _ in at:
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "parts", bowl, **search).run()
    parts = make(tmp_path / "parts", bowl, **search).run()
    assert [(r.weights, r.values, r.source) for r in parts.trials] == [
        (r.weights, r.values, r.source) for r in whole.trials
    ]


def test_a_longer_study_continues_the_shorter(tmp_path: Path) -> None:
    make(tmp_path, Bowl(), n_trials=8).run()
    bowl = Bowl()
    longer = make(tmp_path, bowl, n_trials=14).run()
    assert len(bowl.asked) == 6
    assert trail(longer.trials) == trail(make(tmp_path / "whole", Bowl(), n_trials=14).run().trials)


def test_a_collapsed_model_gets_the_floor_and_its_mark(tmp_path: Path) -> None:
    nan_at_four = Bowl(lambda call, _w: math.nan if call == 4 else None)
    result = make(tmp_path, nan_at_four).run()
    fallen = result.trials[3]
    assert fallen.collapsed == ["dev", "en"]
    assert fallen.value == -8.0
    assert json.loads((tmp_path / "run/trials/0003/scores.json").read_text())["collapsed"] == ["dev", "en"]
    assert result.winner.number != 3


def test_an_infrastructure_error_is_failed_with_its_reason_and_tried_again(tmp_path: Path) -> None:
    def spoil(call: int, _weights: Mapping[str, float]) -> None:
        if call in (8, 9):
            raise InfrastructureError("Out of memory while merging.")

    search = make(tmp_path, Bowl(spoil))
    result = search.run()
    assert len(result.trials) == 12
    assert result.n_failed == 0
    assert trail(result.trials) == trail(make(tmp_path / "calm", Bowl()).run().trials)
    journal = (tmp_path / "run/study.journal").read_text()
    assert "InfrastructureError: Out of memory while merging." in journal


def test_weights_that_fail_three_times_are_given_up(tmp_path: Path) -> None:
    def spoil(_call: int, weights: Mapping[str, float]) -> None:
        if weights == {"code": 0.5, "ja": 0.5, "math": 0.5}:
            raise InfrastructureError("Out of memory.")

    bowl = Bowl(spoil)
    result = make(tmp_path, bowl).run()
    assert result.n_failed == 1
    assert len(result.trials) == 11
    assert sum(weights["code"] == weights["ja"] == weights["math"] == 0.5 for weights, _, _ in bowl.asked) == 3


def fail_always(_call: int, _weights: Mapping[str, float]) -> None:
    raise InfrastructureError("The GPU is gone.")


def test_when_every_trial_fails_the_command_fails(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"All 2 trials failed; the last reason: .*The GPU is gone"):
        make(tmp_path, Bowl(fail_always), n_trials=2).run()


def test_a_machine_that_fails_everything_stops_the_study_which_then_goes_on(tmp_path: Path) -> None:
    bowl = Bowl(fail_always)
    with pytest.raises(SearchError, match=r"3 weight vectors in a row failed 3 times each; .*The GPU is gone"):
        make(tmp_path, bowl).run()
    assert len(bowl.asked) == 9
    result = make(tmp_path, Bowl()).run()
    assert (len(result.trials), result.n_failed) == (12, 0)
    assert trail(result.trials) == trail(make(tmp_path / "whole", Bowl()).run().trials)


def test_a_full_disk_stops_at_once_and_costs_no_weights(tmp_path: Path) -> None:
    def spoil(call: int, _weights: Mapping[str, float]) -> None:
        if call == 5:
            raise DiskError("trials/0004/model cannot be written: No space left on device.")

    bowl = Bowl(spoil)
    with pytest.raises(DiskError):
        make(tmp_path, bowl).run()
    assert len(bowl.asked) == 5
    assert trail(make(tmp_path, Bowl()).run().trials) == trail(make(tmp_path / "whole", Bowl()).run().trials)


def test_a_warm_start_killed_while_its_weights_are_written_is_tried_whole(tmp_path: Path) -> None:
    import optuna

    search = make(tmp_path, Bowl(), n_trials=1)
    study = search._study
    study.enqueue_trial(dict.fromkeys(VECTORS, 0.0), user_attrs={"source": "warm_start/zero"})
    study.ask({VECTORS[0]: optuna.distributions.FloatDistribution(-0.5, 1.25)})
    (zero,) = make(tmp_path, Bowl(), n_trials=1).run().trials
    assert (zero.source, zero.weights) == ("warm_start/zero", dict.fromkeys(VECTORS, 0.0))


def test_three_rungs_measured_against_the_base_can_be_run_again(tmp_path: Path) -> None:
    rungs = [{"n_samples": 10}, {"n_samples": 20, "top": 6}, {"n_samples": 40, "top": 1}]
    objective = {"mean": ["dev"], "gain_over_base": True}
    first = make(tmp_path, Bowl(), rungs=rungs, objective=objective).run()
    bowl = Bowl()
    assert make(tmp_path, bowl, rungs=rungs, objective=objective).run().winner == first.winner
    assert bowl.asked == []
    zero = next(record for record in first.trials if not any(record.weights.values()))
    assert list(zero.values) == [10, 20, 40]
    assert set(zero.values.values()) == {0.0}


def test_a_bug_is_not_taken_for_a_failed_trial(tmp_path: Path) -> None:
    def spoil(_call: int, _weights: Mapping[str, float]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(tmp_path, Bowl(spoil)).run()


def test_a_torn_journal_is_repaired_and_the_study_goes_on(tmp_path: Path) -> None:
    make(tmp_path, Bowl(), n_trials=7).run()
    journal = tmp_path / "run/study.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 5, "worker_id": "x", "tri')
    result = make(tmp_path, Bowl(), n_trials=10).run()
    assert len(result.trials) == 10
    assert (tmp_path / "run/study.journal.torn").read_bytes().startswith(b'{"op_code": 5')


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from typing import Any
from bowl import Bowl, make
def spoil(call, weights):
    if call == {n}:
        os.kill(os.getpid(), 9)
make(Path({path!r}), Bowl(spoil), n_trials=12).run()
"""


def test_kill_9_loses_at_most_the_trial_in_flight(tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), n=9, path=str(tmp_path))
    process = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert process.returncode == -9, process.stderr.decode()
    bowl = Bowl()
    result = make(tmp_path, bowl, n_trials=12).run()
    assert len(bowl.asked) == 4
    assert trail(result.trials) == trail(make(tmp_path / "whole", Bowl(), n_trials=12).run().trials)


def test_a_study_of_other_vectors_is_refused(tmp_path: Path) -> None:
    make(tmp_path, Bowl(), n_trials=2).run()
    with pytest.raises(SearchError, match="other vectors, tasks or objective"):
        Search(recipe(), RunDir(tmp_path / "run"), VECTORS, "another", InProcess(Bowl()))


def test_only_the_best_climb_and_only_new_samples_are_scored(tmp_path: Path) -> None:
    bowl = Bowl()
    result = make(tmp_path, bowl, rungs=[{"n_samples": 20}, {"n_samples": 60, "top": 3}]).run()
    later = [(weights, start, stop) for weights, start, stop in bowl.asked if stop == 60]
    best = sorted(result.trials, key=lambda record: -record.values[20])[:3]
    assert [weights for weights, _, _ in later] == [record.weights for record in best]
    assert {(start, stop) for _, start, stop in later} == {(20, 60)}
    assert result.winner.n_samples == 60
    samples = result.winner.scores["dev"].metrics["bits_per_byte"]
    assert samples.values == pytest.approx([bits(result.winner.weights, i) for i in range(60)])


def test_a_finished_study_asks_for_nothing_again(tmp_path: Path) -> None:
    rungs = [{"n_samples": 20}, {"n_samples": 60, "top": 3}]

    def worse_later(call: int, _weights: Mapping[str, float]) -> float | None:
        return 6.0 if call > 12 else None

    # Trials that climb fall behind those that did not; a restart must not take the next best in their place.
    first = make(tmp_path, Bowl(worse_later), rungs=rungs).run()
    bowl = Bowl()
    assert make(tmp_path, bowl, rungs=rungs).run().winner == first.winner
    assert bowl.asked == []


def test_what_loses_more_than_keep_allows_cannot_win(tmp_path: Path) -> None:
    free = make(tmp_path / "free", Bowl(), n_trials=30).run().winner
    assert bits(free.weights, 0, "en") > 1.02
    kept = make(tmp_path / "kept", Bowl(), n_trials=30, objective={"mean": ["dev"], "keep": {"en": 0.02}}).run().winner
    base = sum(bits(dict.fromkeys(VECTORS, 0.0), i, "en") for i in range(20))
    assert sum(bits(kept.weights, i, "en") for i in range(20)) <= 1.02 * base


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes", "random", "qmc"])
def test_keep_draws_no_warning_from_any_sampler(tmp_path: Path, name: str) -> None:
    sampler = {"name": name, "assist": "none", "n_startup_trials": 6}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(tmp_path, Bowl(), n_trials=10, sampler=sampler, objective={"mean": ["dev"], "keep": {"en": 0.02}}).run()


def test_keep_steers_cmaes(tmp_path: Path) -> None:
    def n_kept(keep: dict[str, float]) -> int:
        objective = {"mean": ["dev"], "keep": keep}
        trials = (
            make(tmp_path / str(len(keep)), Bowl(), n_trials=60, sampler={"name": "cmaes"}, objective=objective)
            .run()
            .trials
        )
        base = trials[0].scores["en"].score.value
        return sum(record.scores["en"].score.value <= 1.02 * base for record in trials[30:])

    assert n_kept({"en": 0.02}) > 2 * n_kept({}) + 5


def test_gain_over_base_is_relative_and_positive_is_better(tmp_path: Path) -> None:
    result = make(tmp_path, Bowl(), objective={"mean": ["dev"], "gain_over_base": True}).run()
    zero = result.trials[0]
    assert zero.value == 0.0
    winner, base = (record.scores["dev"].score.value for record in (result.winner, zero))
    assert result.winner.value == pytest.approx((base - winner) / base)


def test_a_task_that_was_not_scored_is_an_error() -> None:
    with pytest.raises(SearchError, match="wants zh, which was not scored"):
        judge(Objective(mean=["zh"]), {})


def test_gains_are_counted_in_the_bases_absolute_score_or_plainly_where_that_is_0() -> None:
    def task(*values: float) -> TaskScores:
        samples = MetricSamples(values, (1.0,) * len(values), higher_is_better=True, floor=-9.0)
        return TaskScores({"acc": samples}, "acc")

    assert [unit(task(-2.0, -4.0)), unit(task(0.0, 0.0))] == [3.0, 1.0]


def test_an_objective_is_said_in_words() -> None:
    objective = Objective(weighted={"ja": 1.0, "math": 0.5}, gain_over_base=True, keep={"en": 0.01})
    assert describe(objective) == (
        "1 x ja + 0.5 x math, each as its relative gain over the base model; "
        "rejected where a task loses more than allowed (en at most 1 %)"
    )


def test_a_trial_is_a_line_that_a_person_can_follow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="mergekit_optimer")
    make(tmp_path, Bowl(), n_trials=2).run()
    line = caplog.messages[-1]
    assert line.startswith("trial 2/2  dev -")
    assert " best " in line
    assert "left" in line
    assert "ja=+0.33" in line


def test_scores_json_can_be_read_back_whole(tmp_path: Path) -> None:
    record = make(tmp_path, Bowl(), n_trials=1).run().winner
    assert TrialRecord.from_json(read_json(tmp_path / "run/trials/0000/scores.json")) == record


BASE = dict.fromkeys(VECTORS, 0.0)
HALF = dict.fromkeys(VECTORS, 0.5)
TWO_RUNGS = [{"n_samples": 150}, {"n_samples": 260, "top": 4}]


class FallsLater(Bowl):
    """One model collapses on the samples of the second rung, and only there."""

    def __init__(self, fallen: Mapping[str, float]) -> None:
        super().__init__(lambda _call, weights: math.nan if self.asked[-1][2] > 150 and weights == fallen else None)


def first_rung(records: list[TrialRecord]) -> list[object]:
    return [(r.weights, r.values[150], r.kept[150], r.stopped, r.scores["dev"].head(150)) for r in records]


LATE: list[tuple[Mapping[str, float], dict[str, object]]] = [
    (BASE, {"objective": {"mean": ["dev"], "gain_over_base": True}}),
    (HALF, {"race": True, "warm_starts": ["zero", "half"]}),
]


@pytest.mark.parametrize(("fallen", "search"), LATE)
def test_a_collapse_on_a_later_rung_changes_nothing_of_the_first(
    tmp_path: Path, fallen: Mapping[str, float], search: dict[str, Any]
) -> None:
    short = make(tmp_path / "parts", FallsLater(fallen), n_trials=3, rungs=TWO_RUNGS, **search).run()
    record = next(record for record in short.trials if record.weights == fallen)
    assert (record.collapsed, record.kept) == (["dev", "en"], {150: True, 260: False})
    values = record.scores["dev"].metrics["bits_per_byte"].values
    assert values[:150] == pytest.approx([bits(fallen, i) for i in range(150)])
    assert values[150:] == (8.0,) * 110
    parts = make(tmp_path / "parts", FallsLater(fallen), n_trials=14, rungs=TWO_RUNGS, **search).run()
    whole = make(tmp_path / "whole", FallsLater(fallen), n_trials=14, rungs=TWO_RUNGS, **search).run()
    assert first_rung(parts.trials) == first_rung(whole.trials)
    assert parts.winner.weights == whole.winner.weights


def test_a_trial_that_collapsed_on_a_later_rung_has_the_floor_there(tmp_path: Path) -> None:
    warm_starts = ["zero", "half"]
    result = make(tmp_path, FallsLater(HALF), n_trials=2, rungs=TWO_RUNGS, warm_starts=warm_starts).run()
    assert result.trials[1].values == {150: pytest.approx(-2.53, abs=0.01), 260: -8.0}
    assert result.winner.number == 0


def test_what_was_run_is_told_from_what_was_copied(tmp_path: Path) -> None:
    result = make(tmp_path, Bowl(), n_trials=7, warm_starts=["zero", "half"]).run()
    twin = replace(result.trials[1], number=7, same_as=1)
    raced = replace(result.trials[2], stopped="race")
    theirs = replace(raced, number=8, origin="other#2")
    own = [*result.trials[:2], raced, *result.trials[3:]]
    summary = replace(result, trials=[*own, twin, theirs]).to_json()
    assert (summary["n_run"], summary["n_same"], summary["n_adopted"], summary["n_stopped"]) == (7, 1, 1, 1)
    assert summary["gradient_s"] == 0.0


def test_a_flat_study_waits_for_what_other_drivers_have_in_the_air(tmp_path: Path) -> None:
    import optuna

    class Shared(JournalFile):
        """A file that a second driver is at: its trial ends when this one has nothing left to do."""

        is_shared = True
        n_pauses = 0

        def pause(self) -> None:
            self.n_pauses += 1
            scores = Bowl()(OPTIMUM, tmp_path / "theirs", 0, 20).scores
            value = -scores["dev"].score.value
            record = TrialRecord(theirs.number, OPTIMUM, "sampler", 20, {20: value}, {20: True}, [], 0.1, 0.2, scores)
            for key, one in {"is_kept": True, "collapsed": [], "record": packed(record)}.items():
                theirs.set_user_attr(key, one)
            search._study.tell(theirs, value, state=optuna.trial.TrialState.COMPLETE)

    run = RunDir(tmp_path / "run")
    place = Shared(run.journal_path)
    flat = recipe(n_trials=200, until_flat=True, warm_starts=["zero"], sampler={"name": "random"})
    search = Search(flat, run, VECTORS, "identity", InProcess(Bowl()), place=place)
    search._study.enqueue_trial(OPTIMUM)
    theirs = search._study.ask(search._space())
    result = search.run()
    assert place.n_pauses == 1
    assert result.stopped_flat
    assert result.winner.number == theirs.number
    assert len(result.trials) < 200
