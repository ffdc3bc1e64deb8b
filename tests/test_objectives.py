"""Several studies over one pool in one table: their rows, and what must not stand in one."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import write_micro_recipe

from mergekit_optimer.cli import cli
from mergekit_optimer.errors import RunFolderError

FEW = ("--set", "search.n_trials=5")


def call(*words: Any) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def compared(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished and compared studies over one pool: run, and ja and math as a front."""
    folder = tmp_path_factory.mktemp("objectives")
    recipe = write_micro_recipe(folder / "study", base_dir)
    whole = (recipe, "--run-dir", folder / "run", "--device", "cpu", *FEW, "--set", "train.mixture=null")
    call("run", *whole)
    other = ("--objective", "{pareto: [ja, math]}", "--from", folder / "run", "--rank-only")
    front = (recipe, "--run-dir", folder / "front", "--device", "cpu", *FEW, "--set", "train.mixture=null")
    call("search", *front, *other)
    call("compare", *front, "--set", "search.objective={pareto: [ja, math]}")
    return folder


@pytest.fixture
def runs(compared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compared, tmp_path / "copy"))


def test_each_objective_is_a_row_with_its_weights_and_held_out_scores(runs: Path) -> None:
    result = call("objectives", runs / "run", runs / "front", "--json")
    data = json.loads(result.stdout)
    assert json.loads((runs / "run/analysis/objectives.json").read_text()) == data
    mean, front = data["rows"]
    assert (mean["name"], mean["objective"]) == ("run", "mean of en, ja, math")
    assert front["objective"].startswith("Pareto front of ja, math")
    assert (mean["n_adopted"], mean["n_run"]) == (0, 5)
    assert (front["n_adopted"], front["n_run"]) == (5, 0)
    for row, folder in ((mean, "run"), (front, "front")):
        assert row["weights"] == json.loads((runs / folder / "best/winner.json").read_text())["winner"]["weights"]
        report = json.loads((runs / folder / "report/report.json").read_text())
        said = report["scores"]["held_out"]["winner"]["ja"]["bits_per_byte"]
        assert row["held_out"]["ja"]["value"] == pytest.approx(said["value"])
        assert row["held_out"]["ja"]["n"] == said["n"] == 10
    assert data["tasks"]["ja"] == {"metric": "bits_per_byte", "higher_is_better": False}
    rows = list(csv.DictReader((runs / "run/analysis/objectives.csv").open()))
    assert [float(row["ja value"]) for row in rows] == [row["held_out"]["ja"]["value"] for row in data["rows"]]


def test_the_table_is_shown_and_written_where_it_is_wanted(runs: Path) -> None:
    result = call("objectives", runs / "run", runs / "front", "--out", runs / "front")
    assert "base_model" in result.stdout
    assert "mean of en" in result.stdout
    assert str(runs / "front/analysis/objectives.json") in result.stdout
    assert not (runs / "run/analysis/objectives.json").exists()


def test_a_front_lies_beside_its_study(runs: Path) -> None:
    front = json.loads((runs / "front/analysis/pareto.json").read_text())
    assert front["tasks"] == ["ja", "math"]
    rows = list(csv.DictReader((runs / "front/analysis/pareto.csv").open()))
    assert [int(row["trial"]) for row in rows if row["on_front"] == "1"] == [row["number"] for row in front["front"]]


def set_scored_with(run: Path, key: str, name: str | None, value: Any) -> None:
    path = run / "best/winner.json"
    winner = json.loads(path.read_text())
    if name is None:
        winner["scored_with"][key] = value
    else:
        winner["scored_with"][key][name] = value
    path.write_text(json.dumps(winner))


@pytest.mark.parametrize(
    ("key", "name", "value", "sentence"),
    [
        ("base", None, "another", "differ in the base model"),
        ("samples", "ja", "others", "differ in the dev samples of 'ja'"),
        ("samples", "fr", "more", "differ in the dev samples of 'fr'"),
    ],
)
def test_studies_of_other_scores_do_not_stand_in_one_table(
    runs: Path, key: str, name: str | None, value: str, sentence: str
) -> None:
    set_scored_with(runs / "front", key, name, value)
    with pytest.raises(RunFolderError, match=sentence):
        call("objectives", runs / "run", runs / "front")
    assert not (runs / "run/analysis").exists() or not (runs / "run/analysis/objectives.json").exists()


def test_studies_of_other_pools_do_not_stand_in_one_table(runs: Path) -> None:
    # A winner of another pool, held-out scores of it and all.
    from mergekit_optimer.files import content_hash

    set_scored_with(runs / "front", "pool", "ja", {"model.safetensors": "0" * 64})
    winner = json.loads((runs / "front/best/winner.json").read_text())
    held_out = json.loads((runs / "front/held_out.json").read_text())
    inputs = content_hash([winner["scored_with"]["pool"], winner["winner"]["weights"], None])
    held_out["models"]["winner"]["inputs"] = inputs
    (runs / "front/held_out.json").write_text(json.dumps(held_out))
    with pytest.raises(RunFolderError, match="differ in vector 'ja'"):
        call("objectives", runs / "run", runs / "front")


def test_other_held_out_samples_do_not_stand_in_one_table(runs: Path) -> None:
    held_out = json.loads((runs / "front/held_out.json").read_text())
    (runs / "front/held_out.json").write_text(json.dumps(held_out | {"identity": "another"}))
    with pytest.raises(RunFolderError, match="differ in the held-out samples"):
        call("objectives", runs / "run", runs / "front")


def test_what_is_missing_is_said_with_its_command(runs: Path) -> None:
    with pytest.raises(RunFolderError, match="two runs or more"):
        call("objectives", runs / "run", runs / "run")
    (runs / "front/held_out.json").unlink()
    # Its recipe lies elsewhere than where it was called from.
    with pytest.raises(RunFolderError, match=r"no held-out scores of its winner.*run `mergekit-optimer compare"):
        call("objectives", runs / "run", runs / "front")
    (runs / "front/best/winner.json").unlink()
    with pytest.raises(RunFolderError, match=r"has no winner\.json; run `mergekit-optimer search"):
        call("objectives", runs / "run", runs / "front")


def test_held_out_scores_of_an_earlier_winner_are_not_taken_for_this_ones(runs: Path) -> None:
    path = runs / "front/best/winner.json"
    winner = json.loads(path.read_text())
    winner["winner"]["weights"]["ja"] += 0.1
    path.write_text(json.dumps(winner))
    with pytest.raises(RunFolderError, match="no held-out scores of its winner"):
        call("objectives", runs / "run", runs / "front")


def test_a_run_that_is_searched_and_not_compared_is_compared_first(
    runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(runs)
    recipe = Path("study/recipe.yaml")
    again = ("--objective", "{mean: [ja]}", "--from", "run", "--rank-only", "--run-dir", "ja")
    call("search", recipe, "--device", "cpu", *FEW, "--set", "train.mixture=null", *again)
    scored = json.loads(Path("ja/held_out.json").read_text())["models"]
    assert "winner" not in scored
    data = json.loads(call("objectives", "run", "ja", "--device", "cpu", "--json").stdout)
    assert [row["objective"] for row in data["rows"]] == ["mean of en, ja, math", "mean of ja"]
    # The baselines are those of the run that the pool is from: the winner alone is scored.
    now = json.loads(Path("ja/held_out.json").read_text())["models"]
    assert {name: now[name]["tasks"] for name in scored} == {name: one["tasks"] for name, one in scored.items()}
    assert [message.split()[2] for message in caplog.messages if message.startswith("held-out 1/")] == ["winner:"]
    assert json.loads(Path("ja/report/report.json").read_text())["finished"] is True
    assert Path("ja/card/README.md").exists()
    caplog.clear()
    call("objectives", "run", "ja", "--device", "cpu", "--json")
    assert not caplog.messages
