"""`report` on run folders: finished, stopped, gone on since; what it reads, keeps and gives away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import make_scores
from page_data import VECTORS, WEIGHTS, analyses

from mergekit_optimer.cli import cli
from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.files import content_hash, write_json
from mergekit_optimer.pipeline.paging import is_compared, read_page_data, write_page
from mergekit_optimer.report import build_report
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search import TrialRecord

N_TRIALS = 5
POOL = {name: {"model.safetensors": name} for name in VECTORS}


def call(*words: Any) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)


def add_trials(run: RunDir) -> None:
    """Trials as a search that was stopped leaves them; the last has the winner's weights."""
    points = [dict.fromkeys(VECTORS, 0.0), {"code": 1.0, "ja": 0.0, "math": 0.0}]
    points += [dict.fromkeys(VECTORS, 0.2 * n) for n in range(2, N_TRIALS - 1)] + [WEIGHTS]
    for n, weights in enumerate(points):
        scores = make_scores({"model": {"ja": 0.02 * n, "code": 0.01 * n}}, 100, seed=1)["model"]
        source = ("warm_start/zero", "warm_start/single/code")[n] if n < 2 else "surrogate"
        record = TrialRecord(n, weights, source, 100, {100: -2 + 0.1 * n}, {100: True}, [], 0.1, 1.0, scores)
        write_json(run.trial_dir(n) / "scores.json", record.to_json())


def add_winner(run: RunDir) -> None:
    winner = {"number": N_TRIALS - 1, "value": 0.1, "weights": WEIGHTS}
    write_json(run.winner_path, {"winner": winner, "trials": list(range(N_TRIALS)), "scored_with": {"pool": POOL}})


def add_comparison(run: RunDir, report_inputs: dict[str, Any]) -> None:
    models = {model: {"inputs": "", "elapsed_s": 1.0, "tasks": {}} for model in report_inputs["held_out"]}
    models["winner"]["inputs"] = content_hash([POOL, WEIGHTS, None])
    write_json(run.held_out_path, {"identity": "", "models": models})
    write_json(run.report_path, build_report(**report_inputs).to_json())


@pytest.fixture
def begun(tmp_path: Path) -> RunDir:
    """A run of which the trainings are done and nothing else."""
    run = RunDir(tmp_path / "runs" / "micro")
    search = {"n_trials": 20, "objective": {"mean": ["code", "ja"]}, "rungs": [{"n_samples": 100}]}
    recipe = {"name": "micro", "search": search, "tasks": {"ja": {}, "code": {}}}
    command = "mergekit-optimer run study/recipe.yaml --set search.n_trials=20"
    stages = {"train/ja": {"inputs": "a", "elapsed_s": 61.5}, "search": {"inputs": None, "elapsed_s": 3.0}}
    write_json(run.manifest_path, {"recipe": recipe, "command": command, "stages": stages})
    return run


@pytest.fixture
def finished(begun: RunDir, report_inputs: dict[str, Any]) -> RunDir:
    add_trials(begun)
    add_winner(begun)
    add_comparison(begun, report_inputs)
    return begun


def test_a_run_that_has_only_trained_says_so(begun: RunDir) -> None:
    result = call("report", begun.root)
    assert result.exit_code == 0
    assert "The search and its winner: mergekit-optimer run study/recipe.yaml --set search.n_trials=20" in result.stderr
    assert result.stdout == f"To look at: {begun.page_path}\n"
    html = begun.page_path.read_text()
    assert "0 trials are scored" in html
    assert "train/ja" in html


def test_a_search_that_was_stopped_shows_what_it_scored(begun: RunDir) -> None:
    add_trials(begun)
    write_page(begun)
    rows = (begun.root / "report/figures/search_trials.csv").read_text().splitlines()
    assert len(rows) == 1 + N_TRIALS
    assert rows[1].endswith("warm_start,scored,base_model")
    assert rows[2].endswith("warm_start,scored,single/code")
    assert not begun.report_path.exists()


def test_a_run_that_is_not_compared_names_the_command(begun: RunDir) -> None:
    add_trials(begun)
    add_winner(begun)
    shown = json.loads(call("report", begun.root, "--json").stdout)
    assert shown["finished"] is False
    missing = shown["missing"]
    assert missing["Held-out scores, the winner against the baselines"].startswith("mergekit-optimer compare study/")
    assert "--slice code,ja study" not in str(missing)
    assert "study/recipe.yaml --slice code,ja" in missing["The objective around the winner"]
    # It lies elsewhere than a run of this recipe would.
    assert "--run-dir" in missing["What it cost, against training mixtures"]


def test_a_comparison_that_was_stopped_is_no_comparison(finished: RunDir) -> None:
    assert is_compared(finished)
    held_out = json.loads(finished.held_out_path.read_text())
    del held_out["models"]["ties"]
    write_json(finished.held_out_path, held_out)
    assert not is_compared(finished)
    assert read_page_data(finished).report is None


def test_a_finished_run_is_shown_and_its_report_has_the_analyses(finished: RunDir) -> None:
    for name, data in analyses().items():
        write_json(finished.analysis_path(name), data)
    result = call("report", finished.root)
    assert result.exit_code == 0
    assert "Held-out scores" in result.stdout
    assert result.stdout.splitlines()[-1] == f"To look at: {finished.page_path}"
    kept = json.loads(finished.report_path.read_text())["analysis"]
    assert kept == {name: json.loads(json.dumps(data)) for name, data in analyses().items()}
    assert 'id="cost"' in finished.page_path.read_text()
    assert json.loads(call("report", finished.root, "--json").stdout)["analysis"] == kept


def test_scores_of_an_earlier_winner_are_not_shown_as_this_ones(finished: RunDir) -> None:
    winner = json.loads(finished.winner_path.read_text())
    winner["winner"] = {"number": 2, "value": 0.2, "weights": dict.fromkeys(VECTORS, 0.4)}
    write_json(finished.winner_path, winner)
    for name in ("landscape", "geometry", "attribution"):
        write_json(finished.analysis_path(name), analyses()[name])
    write_page(finished)
    html = finished.page_path.read_text()
    assert "gone on since it was compared" in html
    assert "Of an earlier winner, and so not shown: landscape, attribution." in html
    assert 'id="result"' not in html
    assert 'id="landscape"' not in html
    assert 'id="pool"' in html


def test_a_page_gives_away_no_path_and_no_token(finished: RunDir, report_inputs: dict[str, Any]) -> None:
    token = "hf_" + "a" * 34
    changed = {"command": f"mergekit-optimer run /home/me/secret/recipe.yaml --set x={token}"}
    write_json(finished.report_path, build_report(**report_inputs | changed).to_json())
    write_json(finished.manifest_path, finished.manifest() | changed)
    write_page(finished)
    html = finished.page_path.read_text()
    assert "recipe.yaml" in html
    assert "/home/me" not in html
    assert token not in html
    assert str(finished.root.parent) not in html


def test_a_damaged_report_is_told(finished: RunDir) -> None:
    write_json(finished.report_path, {"name": "micro"})
    with pytest.raises(RunFolderError, match=r"report\.json is damaged"):
        write_page(finished)


def test_options_of_a_recipe_do_not_go_with_a_run(finished: RunDir) -> None:
    result = CliRunner().invoke(cli, ["report", str(finished.root), "--set", "seed=2"])
    assert result.exit_code == 2
    assert "go with a RECIPE" in result.output
