"""The objective around a winner: which points are measured, what their errors say, and that nothing is scored twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from bowl import OPTIMUM, Bowl, make, recipe
from click.testing import CliRunner, Result
from conftest import write_micro_recipe

from mergekit_optimer.cli import cli
from mergekit_optimer.errors import SearchError
from mergekit_optimer.pipeline import MergeAndScorer
from mergekit_optimer.search import TrialRecord, judge_point, make_grid, sharpness

WINNER = {"code": 0.65, "ja": 0.5, "math": -0.1}


def test_a_slice_moves_one_weight_and_has_the_winners_own() -> None:
    grid = make_grid(recipe().search, WINNER, ["ja"], 3)
    assert grid.slices["ja"] == [-0.5, 0.375, 0.5, 1.25]
    assert grid.on_slice("ja")[0] == {"code": 0.65, "ja": -0.5, "math": -0.1}
    assert set(grid.slices) == {"code", "ja", "math"}
    assert grid.on_plane() == []


def test_a_plane_has_a_row_for_each_weight_of_its_second_vector() -> None:
    grid = make_grid(recipe().search, WINNER, ["ja", "math"], 3)
    rows = grid.on_plane()
    assert [[(point["ja"], point["math"]) for point in row] for row in rows][1] == [
        (-0.5, 0.375),
        (0.375, 0.375),
        (1.25, 0.375),
    ]
    # Each once: the winner lies on all three slices.
    assert len(grid.points()) == 3 * 3 + 1 + 9


@pytest.mark.parametrize(
    ("named", "n_grid", "sentence"),
    [
        (["ja", "fr"], 7, "no vector fr; --slice takes code, ja, math"),
        (["ja", "ja"], 7, "two different ones"),
        (["code", "ja", "math"], 7, "two different ones"),
        (["ja"], 2, "--grid 3"),
    ],
)
def test_a_slice_that_cannot_be_is_told_in_a_sentence(named: list[str], n_grid: int, sentence: str) -> None:
    with pytest.raises(SearchError, match=sentence):
        make_grid(recipe().search, WINNER, named, n_grid)


def test_a_point_is_compared_with_the_winner_sample_by_sample(tmp_path: Path) -> None:
    bowl = Bowl()

    def record(weights: dict[str, float]) -> TrialRecord:
        measured = bowl(weights, tmp_path, 0, 20)
        return TrialRecord(0, weights, "sampler", 20, {20: 0.0}, {20: True}, [], 0.0, 0.0, measured.scores)

    winner, point = record(OPTIMUM), record(OPTIMUM | {"ja": 0.8})
    judged = judge_point(recipe().search, point.scores, winner, None)
    assert judged["difference"] == pytest.approx(-0.09)
    # Both share their samples' difficulty, so the error of the difference is none.
    assert judged["stderr"] == pytest.approx(0.0, abs=1e-12)
    assert judged["objective"] == pytest.approx(-judged["tasks"]["dev"])
    assert judged["collapsed"] == []


def test_sharpness_is_where_the_loss_reaches_one_standard_error() -> None:
    # A loss of d^2 with an error of 0.5 d: one standard error at d = 0.5, between the points of the grid.
    weights = [-1.0, -0.6, -0.3, 0.0, 0.4, 0.7]
    differences, errors = [-(w**2) for w in weights], [0.5 * abs(w) for w in weights]
    assert sharpness(weights, differences, errors, 0.0) == {"low": pytest.approx(-0.5), "high": pytest.approx(0.5)}


def test_a_weight_that_hardly_matters_has_no_end_inside_the_interval() -> None:
    weights = [-0.5, 0.2, 1.25]
    assert sharpness(weights, [-0.01, 0.0, 0.02], [0.02, 0.0, 0.001], 0.2) == {"low": None, "high": None}
    assert sharpness(weights, [-0.03, 0.0, -0.01], [0.02, 0.0, 0.0], 0.2)["high"] == 0.2


def call(*words: Any) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def searched(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Options of the verbs for a micro study that is trained."""
    folder = tmp_path_factory.mktemp("landscape")
    options = (write_micro_recipe(folder / "study", base_dir), "--run-dir", folder / "run", "--device", "cpu")
    for words in (("train",), ("vectors", "extract")):
        result = call(*words, *options)
        assert result.exit_code == 0, result.output
    return options


def test_a_landscape_is_measured_once_and_goes_on_where_it_was_stopped(
    searched: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = searched[2]
    scored: list[dict[str, float]] = []
    score = MergeAndScorer.score_weights

    def stop_at_third(self: MergeAndScorer, weights: dict[str, float], n_samples: int | None = None) -> Any:
        scored.append(dict(weights))
        if len(scored) == 3:
            raise KeyboardInterrupt
        return score(self, weights, n_samples)

    monkeypatch.setattr(MergeAndScorer, "score_weights", stop_at_third)
    words = ("search", *searched, "--slice", "ja,math", "--grid", "3")
    assert call(*words).exit_code != 0
    assert not (run / "analysis/landscape.json").exists()
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert str(run / "analysis/landscape.json") in result.stdout
    # Only the point that was being scored is scored again.
    assert len(scored) == len({json.dumps(weights, sort_keys=True) for weights in scored}) + 1

    data = json.loads((run / "analysis/landscape.json").read_text())
    winner = json.loads((run / "best/winner.json").read_text())["winner"]["weights"]
    assert data["winner"] == winner
    assert set(data["slices"]) == {"ja", "math"}
    for vector, part in data["slices"].items():
        at = part["weights"].index(winner[vector])
        assert (part["difference"][at], part["stderr"][at]) == (0.0, 0.0)
        assert len(part["objective"]) == len(part["weights"]) == len(part["tasks"]["en"])
    plane = data["plane"]
    assert (plane["x"], plane["y"], len(plane["objective"]), len(plane["objective"][0])) == ("ja", "math", 3, 3)
    # The trials are drawn on it: each has the objective that its point has.
    trials = {json.dumps(t["weights"], sort_keys=True): t["objective"] for t in data["trials"]}
    assert trials[json.dumps(winner, sort_keys=True)] == data["slices"]["math"]["objective"][at]

    rows = list(csv.DictReader((run / "analysis/landscape.csv").open()))
    assert {row["moved"] for row in rows} == {"ja", "math", "ja,math"}
    assert float(rows[0]["objective"]) == data["slices"]["ja"]["objective"][0]

    n_scored = len(scored)
    assert call(*words).exit_code == 0
    assert len(scored) == n_scored


def test_an_unknown_vector_is_refused_before_anything_is_searched(searched: tuple[Any, ...], tmp_path: Path) -> None:
    words = (searched[0], "--run-dir", tmp_path / "run", "--device", "cpu", "--slice", "ja,fr")
    with pytest.raises(SearchError, match="no vector fr; --slice takes ja, math"):
        call("search", *words)
    assert not (tmp_path / "run/study.journal").exists()


def test_measured_against_the_base_the_unit_is_the_bases(tmp_path: Path) -> None:
    objective = {"mean": ["dev"], "gain_over_base": True}
    result = make(tmp_path, Bowl(), n_trials=6, objective=objective).run()
    base = next(record for record in result.trials if record.is_base)
    judged = judge_point(recipe(objective=objective).search, base.scores, result.winner, base)
    assert judged["objective"] == 0.0
    assert judged["difference"] == pytest.approx(-result.winner.value)
