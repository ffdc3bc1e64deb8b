"""`report` on run folders: finished, stopped, gone on since; what it reads, keeps and gives away."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from conftest import make_scores
from page_data import VECTORS, WEIGHTS, analyses, trials

from mergekit_optimer.cli import cli
from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.files import content_hash, write_json
from mergekit_optimer.pipeline import Job
from mergekit_optimer.pipeline.paging import is_compared, read_page_data, write_page
from mergekit_optimer.pipeline.pushing import _refresh_report
from mergekit_optimer.report import ReportData, build_report
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
    counts = {"n_run": analyses()["cost"]["mixtures_searched"], "n_adopted": 0}
    write_json(
        run.winner_path,
        {"winner": winner, "trials": list(range(N_TRIALS)), "scored_with": {"pool": POOL}} | counts,
    )


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
    train = {"datasets": {name: {"path": "data"} for name in VECTORS}, "keep_checkpoints": None}
    recipe = {"name": "micro", "search": search, "tasks": {"ja": {}, "code": {}}, "train": train}
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


def test_all_that_is_missing_is_named_with_its_command_before_there_is_a_winner(
    begun: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(begun.root.parent.parent)
    call("report", "runs/micro")
    called = "study/recipe.yaml --set search.n_trials=20"
    missing = json.loads(begun.report_path.read_text())["missing"]
    assert missing == {
        "The search and its winner": f"mergekit-optimer run {called}",
        "Held-out scores, the winner against the baselines": f"mergekit-optimer compare {called}",
        "Cosines and norms of the vectors": "mergekit-optimer vectors show study/recipe.yaml --figures --set "
        "search.n_trials=20",
        "Trajectory linearity": f"mergekit-optimer run {called} --set train.keep_checkpoints=8 --run-dir "
        "runs/micro-kept",
        "The objective around the winner": "mergekit-optimer search study/recipe.yaml --slice code,ja --set "
        "search.n_trials=20",
        "What each vector brings": "mergekit-optimer compare study/recipe.yaml --attribution --set search.n_trials=20",
        "Other objectives over the same pool": f"mergekit-optimer search {called} --objective '{{mean: [code]}}' "
        "--from runs/micro\nmergekit-optimer objectives runs/micro runs/micro-for-code",
        "The weights as a data mixture": f"mergekit-optimer mixture {called}",
        "What it cost, against training mixtures": f"mergekit-optimer cost {called}",
    }
    html = begun.page_path.read_text()
    assert html.count("After the search:") == len(missing) - 2
    assert "Needs train.keep_checkpoints in the recipe" in html


def test_what_a_recipe_cannot_have_is_not_called_missing(begun: RunDir) -> None:
    recipe = begun.manifest()["recipe"]
    recipe |= {"train": None, "vectors": {"it": {"checkpoint": {"path": "it"}}}}
    write_json(begun.manifest_path, begun.manifest() | {"recipe": recipe})
    missing = json.loads(call("report", begun.root, "--json").stdout)["missing"]
    assert "Trajectory linearity" not in missing
    assert "The weights as a data mixture" not in missing
    assert "--slice it " in missing["The objective around the winner"]


def test_points_that_are_kept_are_measured_without_another_run(begun: RunDir) -> None:
    recipe = begun.manifest()["recipe"]
    recipe["train"]["keep_checkpoints"] = 8
    write_json(begun.manifest_path, begun.manifest() | {"recipe": recipe})
    missing = json.loads(call("report", begun.root, "--json").stdout)["missing"]
    assert missing["Trajectory linearity"] == missing["Cosines and norms of the vectors"]


def test_a_search_that_began_with_anothers_trials_goes_on_with_them(begun: RunDir) -> None:
    command = "mergekit-optimer search study/recipe.yaml --from runs/demo --set 'search.objective={mean: [ja]}'"
    write_json(begun.manifest_path, begun.manifest() | {"command": command})
    missing = json.loads(call("report", begun.root, "--json").stdout)["missing"]
    assert missing["The search and its winner"].startswith(
        "mergekit-optimer search study/recipe.yaml --from runs/demo --set 'search.objective={mean: [ja]}' --run-dir "
    )
    assert "--from" not in missing["What each vector brings"]


def test_a_search_that_was_stopped_shows_what_it_scored(begun: RunDir) -> None:
    add_trials(begun)
    write_page(begun)
    rows = (begun.root / "report/figures/search_trials.csv").read_text().splitlines()
    assert len(rows) == 1 + N_TRIALS
    assert rows[1].endswith("warm_start,scored,base_model")
    assert rows[2].endswith("warm_start,scored,single/code")
    assert (begun.root / "report/figures/search_trials.svg").read_text().startswith("<svg ")


def test_report_json_of_a_search_that_was_stopped_holds_what_is_there(begun: RunDir) -> None:
    add_trials(begun)
    write_json(begun.analysis_path("geometry"), analyses()["geometry"])
    shown = json.loads(call("report", begun.root, "--json").stdout)
    kept = json.loads(begun.report_path.read_text())
    assert kept["finished"] is shown["finished"] is False
    assert (kept["name"], kept["objective"], kept["winner"]) == ("micro", "mean of code, ja", None)
    assert [(trial["number"], trial["value"]) for trial in kept["trials"]] == [
        (n, -2 + 0.1 * n) for n in range(N_TRIALS)
    ]
    assert kept["trials"][1]["baseline"] == "single/code"
    assert kept["base_value"] == -2
    assert kept["stages"] == {"train/ja": 61.5}
    assert kept["analysis"] == {"geometry": json.loads(json.dumps(analyses()["geometry"]))}
    assert kept["missing"].keys() == shown["missing"].keys()
    assert "Cosines and norms of the vectors" not in kept["missing"]
    # No card and no push is made of it.
    with pytest.raises(RunFolderError, match=r"not finished \(micro\)"):
        ReportData.from_json(kept)


def test_a_push_from_a_run_that_is_not_finished_leaves_its_report(begun: RunDir) -> None:
    call("report", begun.root)
    before = begun.report_path.read_bytes()
    _refresh_report(cast(Job, SimpleNamespace(run=begun)))
    assert begun.report_path.read_bytes() == before


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


def test_a_report_of_before_gains_were_kept_gets_them(finished: RunDir) -> None:
    data = json.loads(finished.report_path.read_text())
    gains = data.pop("relative_gains")
    del data["finished"], data["mixtures"]
    write_json(finished.report_path, data)
    assert call("report", finished.root).exit_code == 0
    again = json.loads(finished.report_path.read_text())
    assert again["relative_gains"] == gains
    assert gains["winner"]["dev"] > 0
    assert again["finished"] is True


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


def change_winner(run: RunDir, **changes: Any) -> None:
    write_json(run.winner_path, json.loads(run.winner_path.read_text()) | changes)


def test_the_report_of_a_run_that_has_gone_on_is_no_longer_kept_as_its_own(finished: RunDir) -> None:
    weights = dict.fromkeys(VECTORS, 0.4)
    change_winner(finished, winner={"number": 2, "value": 0.2, "weights": weights})
    for _ in range(2):
        assert json.loads(call("report", finished.root, "--json").stdout)["finished"] is False
        kept = json.loads(finished.report_path.read_text())
        assert kept["winner"] == {"number": 2, "weights": weights}
        assert kept["note"].startswith("The run has gone on since it was compared")
        assert "gone on since it was compared" in finished.page_path.read_text()


def test_a_cost_of_fewer_trials_than_were_run_is_not_shown(finished: RunDir) -> None:
    for name in ("cost", "geometry"):
        write_json(finished.analysis_path(name), analyses()[name])
    assert json.loads(call("report", finished.root, "--json").stdout)["analysis"].keys() == {"cost", "geometry"}
    # Four more trials, none of which wins.
    change_winner(finished, n_run=64)
    assert json.loads(call("report", finished.root, "--json").stdout)["analysis"].keys() == {"geometry"}
    html = finished.page_path.read_text()
    assert "Of before the search went on, and so not shown: cost." in html
    assert 'id="cost"' not in html
    assert "mergekit-optimer cost study/recipe.yaml" in html
    assert 'id="result"' in html


def test_a_report_of_fewer_trials_than_there_are_says_so(finished: RunDir, report_inputs: dict[str, Any]) -> None:
    report = build_report(**report_inputs | {"trials": trials()})
    write_json(finished.report_path, report.to_json())
    change_winner(finished, trials=list(range(N_TRIALS - 1)))
    call("report", finished.root)
    assert "gone on since this report was made, from 20 to 4 trials, and has the same winner" in (
        finished.page_path.read_text()
    )


@pytest.mark.parametrize("of_the_row", [{"n_run": 59}, {"n_adopted": 3}, {"weights": dict.fromkeys(VECTORS, 0.1)}])
@pytest.mark.parametrize("folder", ["micro", "study-for-ja"])
def test_a_table_of_objectives_with_an_old_row_is_not_shown(
    finished: RunDir, folder: str, of_the_row: dict[str, Any]
) -> None:
    data = analyses()["objectives"]
    for row, name in zip(data["rows"], ("micro", "study-for-ja"), strict=True):
        row |= {"name": name, "n_run": 60, "n_adopted": 0}
    add_winner(RunDir(finished.root.parent / "study-for-ja"))
    write_json(finished.analysis_path("objectives"), data)
    call("report", finished.root)
    assert 'id="objectives"' in finished.page_path.read_text()
    next(row for row in data["rows"] if row["name"] == folder).update(of_the_row)
    write_json(finished.analysis_path("objectives"), data)
    call("report", finished.root)
    html = finished.page_path.read_text()
    assert 'id="objectives"' not in html
    assert "Of before the search went on, and so not shown: objectives." in html


def test_what_a_weight_means_in_training_time_is_of_this_winner(finished: RunDir) -> None:
    data = analyses()["trajectory"]
    for name, one in data["meaning"].items():
        one["winner_weight"] = WEIGHTS[name]
    write_json(finished.analysis_path("trajectory"), data)
    call("report", finished.root)
    assert "is 30 %." in finished.page_path.read_text()
    data["meaning"]["ja"]["winner_weight"] = 0.1
    write_json(finished.analysis_path("trajectory"), data)
    call("report", finished.root)
    html = finished.page_path.read_text()
    assert "is 30 %." not in html
    assert "Of an earlier winner, and so not shown: trajectory." in html


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
