"""The race and the early end: who is stopped, what is told of it, and that nothing of it depends on an interruption."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from bowl import VECTORS, Bowl, bits, make, recipe, trail

from mergekit_optimer.files import read_json
from mergekit_optimer.recipe import Objective
from mergekit_optimer.scores import MetricSamples, TaskScores
from mergekit_optimer.search import TrialRecord, warm_start_weights
from mergekit_optimer.search.objective import paired_difference

RUNG = [{"n_samples": 300}]
BASELINES = warm_start_weights(VECTORS, ["zero", "uniform_average", "half", "singles"])


def worse_by(loss: float) -> Callable[[Mapping[str, float], int, str], float]:
    """All baselines are equal; everything else is worse in the mean, and one up, one down sample by sample."""

    def value(weights: Mapping[str, float], sample: int, _task: str) -> float:
        return 3.0 if dict(weights) in BASELINES.values() else 3.0 + loss + (-1.0) ** sample

    return value


@pytest.mark.parametrize(("loss", "n_samples"), [(0.1, 300), (0.2, 150), (0.3, 100)])
def test_a_trial_is_stopped_once_it_is_clearly_worse_on_the_same_samples(
    tmp_path: Path, loss: float, n_samples: int
) -> None:
    # Standard errors are 1 / sqrt(n): 2.3 of them are 0.23 at 100 samples, 0.19 at 150, 0.13 at 300.
    result = make(tmp_path, Bowl(bits=worse_by(loss)), race=True, rungs=RUNG, n_trials=8).run()
    for record in result.trials[6:]:
        assert record.n_samples == n_samples
        assert record.stopped == ("race" if n_samples < 300 else None)
        assert record.value == pytest.approx(-3.0 - loss)


def test_a_stopped_trial_is_told_as_the_incumbent_plus_the_paired_difference(tmp_path: Path) -> None:
    result = make(tmp_path, Bowl(), race=True, rungs=RUNG, n_trials=20).run()
    stopped = next(record for record in result.trials if record.stopped == "race")
    earlier = [record for record in result.trials[: stopped.number] if record.stopped is None]
    incumbent = max(earlier, key=lambda record: record.value)
    mine, theirs = (record.scores["dev"].metrics["bits_per_byte"].values for record in (stopped, incumbent))
    difference = sum(theirs[i] - mine[i] for i in range(100)) / 100
    assert stopped.value == pytest.approx(incumbent.value + difference)
    # The plain mean of its 100 samples would be another number.
    assert stopped.value != pytest.approx(-stopped.scores["dev"].score.value, abs=1e-6)
    data = read_json(tmp_path / f"run/trials/{stopped.number:04d}/scores.json")
    assert (data["stopped"], data["n_samples"], data["kept"]) == ("race", 100, {"300": False})
    assert list(data["values"]) == ["300"]


def test_baselines_are_scored_on_all_samples(tmp_path: Path) -> None:
    result = make(tmp_path, Bowl(), race=True, rungs=RUNG, n_trials=10).run()
    assert [record.n_samples for record in result.trials[:6]] == [300] * 6


def test_samples_are_scored_in_chunks_each_once_and_one_trial_after_the_other(tmp_path: Path) -> None:
    bowl = Bowl()
    make(tmp_path, bowl, race=True, rungs=[{"n_samples": 130}], n_trials=1).run()
    zero = dict.fromkeys(VECTORS, 0.0)
    assert bowl.asked == [(zero, 0, 50), (zero, 50, 100), (zero, 100, 130)]


def test_the_race_scores_half_the_samples_and_finds_as_good_a_winner(tmp_path: Path) -> None:
    raced, whole = Bowl(), Bowl()
    fast = make(tmp_path / "race", raced, race=True, rungs=RUNG, n_trials=60).run()
    slow = make(tmp_path / "whole", whole, rungs=RUNG, n_trials=60).run()
    scored = [sum(stop - start for _, start, stop in bowl.asked) for bowl in (raced, whole)]
    assert scored[0] < 0.5 * scored[1]
    assert fast.winner.stopped is None
    assert fast.winner.value >= slow.winner.value - 0.01


def test_a_stopped_trial_neither_climbs_nor_wins(tmp_path: Path) -> None:
    bowl = Bowl()
    rungs = [{"n_samples": 150}, {"n_samples": 200, "top": 30}]
    result = make(tmp_path, bowl, race=True, rungs=rungs, n_trials=20).run()
    whole = [record for record in result.trials if record.stopped is None]
    assert len(whole) < len(result.trials)
    assert {tuple(weights.values()) for weights, _, stop in bowl.asked if stop == 200} == {
        tuple(record.weights.values()) for record in whole
    }
    assert result.winner in whole


def test_a_collapsed_trial_is_stopped_after_its_first_chunk(tmp_path: Path) -> None:
    half = BASELINES["half"]
    bowl = Bowl(lambda _call, weights: math.nan if weights == half else None)
    result = make(tmp_path, bowl, race=True, rungs=RUNG, n_trials=7).run()
    fallen = result.trials[2]
    assert (fallen.source, fallen.stopped, fallen.n_samples) == ("warm_start/half", "collapsed", 50)
    assert (fallen.value, fallen.is_kept) == (-8.0, False)
    assert result.to_json()["n_collapsed"] == 1
    assert make(tmp_path, bowl, race=True, rungs=RUNG, n_trials=7).run().winner == result.winner


def test_a_collapsed_base_is_scored_whole_where_others_are_measured_against_it(tmp_path: Path) -> None:
    bowl = Bowl(lambda _call, weights: None if any(weights.values()) else math.nan)
    objective = {"mean": ["dev"], "gain_over_base": True}
    result = make(tmp_path, bowl, race=True, rungs=RUNG, n_trials=8, objective=objective).run()
    assert (result.trials[0].n_samples, result.trials[0].collapsed) == (300, ["dev", "en"])
    assert result.winner.value > 0.5


def test_what_keep_allows_is_judged_on_the_samples_seen_by_both(tmp_path: Path) -> None:
    def late_loss(weights: Mapping[str, float], sample: int, task: str) -> float:
        # The base is bad on the first 100 samples of "en" only, so a stopped trial gains there.
        base = not any(weights.values())
        return (2.0 if base and sample < 100 else 1.0) if task == "en" else bits(weights, sample)

    objective = {"mean": ["dev"], "keep": {"en": 0.0}}
    search = make(tmp_path, Bowl(bits=late_loss), race=True, rungs=RUNG, n_trials=20, objective=objective)
    result = search.run()
    stopped = next(record for record in result.trials if record.stopped == "race")
    journal = (tmp_path / "run/study.journal").read_text()
    lines = [json.loads(line) for line in journal.splitlines()]
    violations = {
        line["trial_id"]: value
        for line in lines
        for key, value in line.get("system_attr", {}).items()
        if key == "constraints:en"
    }
    assert stopped.n_samples == 100
    assert violations[stopped.number] == pytest.approx(-0.5)


def test_a_task_that_ends_before_the_rung_is_no_reason_to_stop(tmp_path: Path) -> None:
    bowl = Bowl(n_samples={"dev": 60, "en": 40})
    result = make(tmp_path, bowl, race=True, rungs=RUNG, n_trials=9).run()
    assert {record.stopped for record in result.trials} == {None}
    assert {record.n_samples for record in result.trials} == {300}
    assert {record.scores["en"].score.n for record in result.trials} == {40}


def test_an_interrupted_race_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", Bowl(), race=True, rungs=RUNG, n_trials=14).run()

    def stop_at(n: int) -> Callable[[int, Mapping[str, float]], None]:
        def spoil(call: int, _weights: Mapping[str, float]) -> None:
            if call == n:
                raise KeyboardInterrupt

        return spoil

    for n in (39, 2, 5):
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "parts", Bowl(stop_at(n)), race=True, rungs=RUNG, n_trials=14).run()
    parts = make(tmp_path / "parts", Bowl(), race=True, rungs=RUNG, n_trials=14).run()
    assert trail(parts.trials) == trail(whole.trials)
    assert [record.stopped for record in parts.trials] == [record.stopped for record in whole.trials]


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from bowl import Bowl, make
def spoil(call, weights):
    if call == {n}:
        os.kill(os.getpid(), 9)
make(Path({path!r}), Bowl(spoil), race=True, rungs=[{{"n_samples": 300}}], n_trials=10).run()
"""


def test_kill_9_between_two_chunks_loses_that_trial_only(tmp_path: Path) -> None:
    # Six baselines take 36 chunks; the kill comes in the second chunk of the first trial after them.
    script = KILLED.format(tests=str(Path(__file__).parent), n=38, path=str(tmp_path))
    process = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert process.returncode == -9, process.stderr.decode()
    bowl = Bowl()
    result = make(tmp_path, bowl, race=True, rungs=RUNG, n_trials=10).run()
    whole = make(tmp_path / "whole", Bowl(), race=True, rungs=RUNG, n_trials=10).run()
    assert trail(result.trials) == trail(whole.trials)
    assert len({tuple(weights.values()) for weights, _, _ in bowl.asked}) == 4


def test_a_stopped_trial_says_so_in_its_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="mergekit_optimer")
    result = make(tmp_path, Bowl(), race=True, rungs=RUNG, n_trials=12).run()
    lines = [message for message in caplog.messages if "stopped after 100 samples" in message]
    assert len(lines) == sum(record.stopped == "race" for record in result.trials) > 0


def test_the_difference_of_objectives_adds_the_errors_of_its_tasks_as_squares() -> None:
    def scores(ja: list[float], acc: list[float]) -> dict[str, TaskScores]:
        bpb = MetricSamples(tuple(ja), (1.0,) * len(ja), higher_is_better=False, floor=8.0)
        right = MetricSamples(tuple(acc), (1.0,) * len(acc), higher_is_better=True, floor=0.0)
        return {"ja": TaskScores({"bpb": bpb}, "bpb"), "acc": TaskScores({"acc": right}, "acc")}

    mine, theirs = scores([1.0, 2.0], [1.0, 1.0, 1.0, 0.0]), scores([2.0, 5.0], [0.0, 1.0, 0.0, 0.0])
    difference = paired_difference(Objective(weighted={"ja": 1.0, "acc": 2.0}), mine, theirs)
    # ja: (1 + 3) / 2, error 1; acc: 2 x 0.5, error 2 x sqrt(1 / 12).
    assert difference.value == pytest.approx(3.0)
    assert difference.stderr == pytest.approx(math.sqrt(1.0 + 4.0 / 12.0))
    gain = paired_difference(Objective(mean=["ja"], gain_over_base=True), mine, theirs, base=scores([4.0, 4.0], [1.0]))
    assert gain == pytest.approx((0.5, 0.25))


FLAT = {"n_trials": 30, "until_flat": True}


def level(_weights: Mapping[str, float], sample: int, _task: str) -> float:
    return 2.0 + 0.1 * math.sin(sample)


def test_a_study_whose_best_does_not_rise_ends_after_the_warm_starts_and_three_trials_a_vector(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mergekit_optimer")
    result = make(tmp_path, Bowl(bits=level), **FLAT).run()
    assert len(result.trials) == 6 + 9
    assert result.to_json()["stopped_flat"] is True
    assert any("ended after 15 of 30 trials" in message for message in caplog.messages)
    # Again, and as part of a longer study, it ends at the same trial.
    bowl = Bowl(bits=level)
    assert make(tmp_path, bowl, **FLAT | {"n_trials": 40}).run().trials == result.trials
    assert bowl.asked == []


def test_a_rise_within_the_noise_is_no_rise(tmp_path: Path) -> None:
    def jitter(weights: Mapping[str, float], sample: int, _task: str) -> float:
        # Better in the mean by 0.01, with errors of 1 / sqrt(20) on the difference.
        return 2.0 if dict(weights) in BASELINES.values() else 1.99 + (-1.0) ** sample

    assert len(make(tmp_path, Bowl(bits=jitter), **FLAT).run().trials) == 15


def test_a_study_that_keeps_rising_is_not_ended(tmp_path: Path) -> None:
    rising = Bowl(lambda call, _weights: 6.0 - 0.1 * call)
    result = make(tmp_path, rising, n_trials=20, until_flat=True).run()
    assert (len(result.trials), result.stopped_flat) == (20, False)


def test_an_interrupted_study_ends_flat_at_the_same_trial(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", Bowl(), n_trials=60, until_flat=True).run()
    assert whole.stopped_flat
    assert 15 < len(whole.trials) < 60
    bowl = Bowl()
    for n in range(5, 61, 11):
        parts = make(tmp_path / "parts", bowl, n_trials=n, until_flat=True).run()
    parts = make(tmp_path / "parts", bowl, n_trials=60, until_flat=True).run()
    assert trail(parts.trials) == trail(whole.trials)


def test_records_of_an_older_study_can_be_read(tmp_path: Path) -> None:
    record = make(tmp_path, Bowl(), n_trials=1).run().winner
    data = record.to_json()
    for key in ("stopped", "same_as", "origin", "collapsed_at"):
        del data[key]
    assert TrialRecord.from_json(data) == record
    assert recipe().search.race is False
