"""Another objective for a finished study: its pool and trials taken over, ranked for free, and searched on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import write_documents, write_micro_recipe

from mergekit_optimer.cli import cli
from mergekit_optimer.errors import OptimerError, RecipeError, RunFolderError, SearchError

JA = ("--objective", "{mean: [ja]}")


def call(*words: Any, catch: bool = False) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=catch)


@pytest.fixture(scope="module")
def searched(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a micro study and its run, searched for the mean of all tasks."""
    folder = tmp_path_factory.mktemp("reoptimise")
    recipe = write_micro_recipe(folder / "study", base_dir)
    options = (recipe, "--run-dir", folder / "run", "--device", "cpu")
    for words in (("train",), ("vectors", "extract"), ("search",)):
        result = call(*words, *options)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def study(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "copy"))


def reoptimise(study: Path, *words: Any) -> Result:
    options = ("--from", study / "run", "--run-dir", study / "ja", "--device", "cpu")
    return call("search", study / "study/recipe.yaml", *JA, *options, *words)


def trials(run: Path) -> dict[int, Any]:
    return {int(path.parent.name): json.loads(path.read_text()) for path in sorted(run.glob("trials/*/scores.json"))}


def test_ranking_for_another_objective_scores_nothing(study: Path) -> None:
    result = reoptimise(study, "--rank-only", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["n_adopted"], summary["n_run"]) == (6, 0)
    on_ja = {
        number: -_bits(trial["tasks"]["ja"]["metrics"]["bits_per_byte"], 4)
        for number, trial in trials(study / "run").items()
    }
    best = max(on_ja, key=lambda number: on_ja[number])
    assert summary["winner"]["weights"] == trials(study / "run")[best]["weights"]
    won = trials(study / "run")[best]
    whole = -_bits(won["tasks"]["ja"]["metrics"]["bits_per_byte"], won["n_samples"])
    assert summary["winner"]["value"] == pytest.approx(whole)
    assert (study / "ja/best/model/model.safetensors").exists()


def _bits(samples: dict[str, Any], n: int) -> float:
    pairs = list(zip(samples["values"][:n], samples["weights"][:n], strict=True))
    return sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)


def test_the_search_goes_on_from_the_ranked_trials_and_says_what_was_free(study: Path) -> None:
    result = reoptimise(study, "--set", "search.n_trials=3")
    assert result.exit_code == 0, result.output
    assert "ranked anew for free: 6 trials; run: 3 trials" in result.stdout
    new = trials(study / "ja")
    assert len(new) == 9
    assert {trial["source"] for trial in new.values()} - {"surrogate", "sampler"} == {
        f"warm_start/{name}" for name in ("zero", "uniform_average", "sum", "single/ja", "single/math")
    }
    before = {path: path.read_bytes() for path in (study / "ja/trials").rglob("*.json")}
    again = reoptimise(study, "--set", "search.n_trials=3")
    assert again.exit_code == 0, again.output
    assert {path: path.read_bytes() for path in (study / "ja/trials").rglob("*.json")} == before


def test_the_other_stages_work_in_the_new_run_without_training(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool = {path: path.read_bytes() for path in (study / "run").rglob("*.safetensors")}
    assert reoptimise(study, "--set", "search.n_trials=2").exit_code == 0
    words = (study / "study/recipe.yaml", "--set", "search.objective={mean: [ja]}", "--set", "search.n_trials=2")
    caplog.clear()
    result = call("run", *words, "--run-dir", study / "ja", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert [m for m in caplog.messages if m.startswith("train/")] == [
        f"train/{name}: done before, nothing changed" for name in ("ja", "math", "data_mixture")
    ]
    report = json.loads((study / "ja/report/report.json").read_text())
    assert report["search"]["n_adopted"] == 6
    assert report["search"]["n_trials"] == 8
    assert report["timings"]["train_s"] == 0.0
    assert "6 of them scored before" in (study / "ja/card/README.md").read_text()
    assert {path: path.read_bytes() for path in (study / "run").rglob("*.safetensors")} == pool
    assert "mergekit-optimer search recipe.yaml --from run" in (study / "ja/card/README.md").read_text()
    assert {path.name for path in (study / "ja/trials/0000").iterdir()} == {"merge.yaml", "scores.json"}


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seed=9", "seed"),
        ("search.weights={low: -0.25, high: 1.0}", "search.weights"),
        ("tasks.ja.max_tokens=32", "tasks.ja"),
    ],
)
def test_a_study_of_other_scores_is_not_taken_over(study: Path, override: str, named: str) -> None:
    with pytest.raises(RunFolderError, match=named):
        reoptimise(study, "--set", override)


def test_other_vectors_under_the_same_names_are_not_taken_over(study: Path) -> None:
    weights = study / "run/vectors/ja/distribution_vector.json"
    record = json.loads(weights.read_text())
    record["files"] = dict.fromkeys(record["files"], "0" * 64)
    weights.write_text(json.dumps(record))
    with pytest.raises(RunFolderError, match="Vector 'ja' is not the one that the trials of"):
        reoptimise(study)


def test_a_refused_run_leaves_no_folder_that_stands_in_the_way(study: Path) -> None:
    with pytest.raises(RunFolderError, match="seed differ"):
        reoptimise(study, "--set", "seed=9")
    assert not (study / "ja").exists()
    assert reoptimise(study, "--rank-only").exit_code == 0


def test_a_run_takes_over_the_trials_of_one_study_only(study: Path) -> None:
    assert reoptimise(study, "--rank-only").exit_code == 0
    options = ("--run-dir", study / "run", "--device", "cpu", "--set", "search.n_trials=8")
    assert call("search", study / "study/recipe.yaml", *options).exit_code == 0
    with pytest.raises(RunFolderError, match="has taken over other trials"):
        reoptimise(study, "--rank-only")


def test_changed_dev_texts_are_not_taken_for_the_scored_ones(study: Path) -> None:
    write_documents(study / "study/data/ja.dev.jsonl", "ja", 8, seed=99)
    with pytest.raises(RunFolderError, match="dev samples of 'ja' are not those"):
        reoptimise(study)


@pytest.mark.parametrize(
    ("words", "kind", "sentence"),
    [
        (("--rank-only",), SearchError, "name a finished run with --from"),
        ((*JA, "--from", "nowhere"), RunFolderError, "holds no finished study"),
        (("--objective", "{mean: [fr]}"), RecipeError, "fr not in tasks"),
    ],
)
def test_a_wrong_call_is_told_in_a_sentence(
    study: Path, words: tuple[str, ...], kind: type[OptimerError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        call("search", study / "study/recipe.yaml", "--run-dir", study / "other", "--device", "cpu", *words)


def test_without_a_run_folder_the_new_run_is_named_after_what_it_is_for(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study)
    words = (*JA, "--from", "run", "--rank-only", "--device", "cpu")
    assert call("search", "study/recipe.yaml", *words).exit_code == 0
    assert (study / "runs/micro-for-ja/best/winner.json").exists()
