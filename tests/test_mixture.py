"""Merge weights as a data mixture: the shares, what is left out, the recipe, and the baseline in the held-out table."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import write_micro_recipe

from mergekit_optimer import pipeline
from mergekit_optimer.cli import cli
from mergekit_optimer.errors import OptimerError, TrainError
from mergekit_optimer.mixture import mixture_recipe, plan_mixture
from mergekit_optimer.pipeline.mixing import trained_mixtures
from mergekit_optimer.recipe import load_recipe
from mergekit_optimer.runs import RunDir
from mergekit_optimer.train import read_record
from mergekit_optimer.vectors import TensorFolder

OPTIMISED = "data_mixture/optimised"


def call(*words: Any) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)


def test_shares_are_positive_weights_times_tokens() -> None:
    mixture = plan_mixture({"ja": 0.5, "math": 1.0}, {"ja": "ja", "math": "math"}, {"ja": 2000, "math": 3000})
    assert mixture.shares == {"ja": 0.25, "math": 0.75}
    assert mixture.dataset_shares == {"ja": 0.25, "math": 0.75}
    assert mixture.n_tokens == 5000
    assert mixture.to_json()["mixture_tokens"] == {"ja": 1250, "math": 3750}
    assert mixture.left_out == {}


def test_what_a_mixture_cannot_hold_is_listed_with_what_it_means() -> None:
    weights = {"code": 0.0, "en": -0.2, "it": 0.9, "ja": 0.4}
    datasets = {"code": "code", "en": "en", "it": None, "ja": "ja"}
    mixture = plan_mixture(weights, datasets, {"code": 100, "en": 100, "ja": 100})
    assert mixture.shares == {"ja": 1.0}
    # The mixture has the tokens of all single runs, those of en and code too.
    assert mixture.n_tokens == 300
    left_out = {name: (one.weight, one.meaning) for name, one in mixture.left_out.items()}
    assert set(left_out) == {"code", "en", "it"}
    assert left_out["en"][0] == -0.2
    assert "a mixture can only leave its data out" in left_out["en"][1]
    assert "the merge does without it" in left_out["code"][1]
    assert "its data are not in the recipe" in left_out["it"][1]


def test_two_vectors_of_one_dataset_add_up() -> None:
    mixture = plan_mixture({"a": 0.5, "b": 0.5, "c": 1.0}, {"a": "ja", "b": "ja", "c": "en"}, {"ja": 100, "en": 100})
    assert mixture.shares == {"a": 0.25, "b": 0.25, "c": 0.5}
    assert mixture.dataset_shares == {"en": 0.5, "ja": 0.5}
    assert mixture.n_tokens == 200


@pytest.mark.parametrize("weights", [{"ja": 0.0, "math": -0.3}, {"ja": -0.1, "math": -0.3}])
def test_a_mixture_with_no_positive_weight_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(TrainError, match=r"no dataset a positive weight \(ja .*, math -0\.3000\).*search"):
        plan_mixture(weights, {"ja": "ja", "math": "math"}, {"ja": 10, "math": 10})


def test_the_mixture_recipe_is_the_study_with_shares_from_wherever_it_lies(micro_recipe: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(micro_recipe.read_text())
    data["train"]["datasets"]["ja"]["learning_rate"] = 0.001
    data["publish"] |= {"repo": "org/merged", "checkpoints": "org/cpt-"}
    data["search"] |= {"race": True, "rungs": [{"n_samples": 150}]}
    data["held_out"]["own"] = {"kind": "lighteval", "task": "own|0", "metric": "acc", "file": "own.py"}
    micro_recipe.write_text(yaml.safe_dump(data))
    study = load_recipe(micro_recipe)
    mixture = plan_mixture({"ja": 0.5, "math": 1.0}, {"ja": "ja", "math": "math"}, {"ja": 512, "math": 512})
    place = tmp_path / "runs/micro/mixture.yaml"
    place.parent.mkdir(parents=True)
    place.write_text(mixture_recipe(study, mixture, place.parent))

    made = load_recipe(place)
    assert made.name == "micro-mixture"
    assert made.train
    assert made.train.mixture
    assert made.train.mixture.shares == pytest.approx({"ja": 1 / 3, "math": 2 / 3})
    assert made.train.datasets["ja"].sft_options == {"learning_rate": 0.001}
    assert made.publish.repositories(["ja", "math"]) == {}
    assert made.publish.license == "apache-2.0"
    assert made.search == study.search
    for part in ("tasks", "held_out"):
        for name, task in getattr(study, part).items():
            field = "file" if name == "own" else "path"
            there = getattr(getattr(made, part)[name], field)
            assert not Path(there).is_absolute()
            assert made.resolve(there) == study.resolve(getattr(task, field))
    assert made.resolve(str(made.base_model.path)) == study.resolve("base")


def test_a_dataset_cannot_have_the_baselines_name(micro_recipe: Path) -> None:
    with pytest.raises(OptimerError, match="data_mixture_optimised is the name of the baseline"):
        load_recipe(micro_recipe, ["train.datasets.data_mixture_optimised={path: data/ja.train.jsonl}"])


# All weights positive, so that the winner surely stands for a mixture.
POSITIVE = ("--set", "search.weights={low: 0.1, high: 1.0}", "--set", "search.warm_starts=[uniform_average, sum]",
            "--set", "search.n_trials=3")  # fmt: skip


@pytest.fixture(scope="module")
def finished_once(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study and its run: finished first, then with the optimised mixture."""
    folder = tmp_path_factory.mktemp("mixture")
    words = ("run", write_micro_recipe(folder / "study", base_dir), "--run-dir", folder / "run", "--device", "cpu")
    assert call(*words, *POSITIVE).exit_code == 0
    before = json.loads((folder / "run/held_out.json").read_text())["models"]
    assert OPTIMISED not in before
    result = call(*words, *POSITIVE, "--set", "train.mixture.optimised=true")
    assert result.exit_code == 0, result.output
    after = json.loads((folder / "run/held_out.json").read_text())["models"]
    # What was scored is not scored again.
    assert {name: after[name] for name in before} == before
    return folder


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_once, tmp_path / "copy"))


def options(folder: Path) -> list[Any]:
    return [folder / "study/recipe.yaml", "--run-dir", folder / "run", "--device", "cpu", *POSITIVE,
            "--set", "train.mixture.optimised=true"]  # fmt: skip


def test_the_optimised_mixture_stands_beside_the_uniform_one(finished: Path) -> None:
    report = json.loads((finished / "run/report/report.json").read_text())
    assert {"data_mixture", OPTIMISED} <= set(report["comparison"]["baselines"])
    assert report["timings"]["train_mixture_optimised_s"] > 0
    assert OPTIMISED in (finished / "run/card/README.md").read_text()
    run = RunDir(finished / "run")
    uniform, optimised = (read_record(run.checkpoint_dir(name)) for name in ("data_mixture", OPTIMISED))
    assert optimised.n_steps == uniform.n_steps
    assert optimised.mixture
    assert uniform.mixture
    assert {part.wanted_share for part in uniform.mixture.values()} == {0.5}
    shares = {name: part.wanted_share for name, part in optimised.mixture.items()}
    weights = json.loads(run.winner_path.read_text())["winner"]["weights"]
    tokens = {name: read_record(run.checkpoint_dir(name)).n_tokens_trained for name in weights}
    parts = {name: weights[name] * tokens[name] for name in weights}
    assert shares == pytest.approx({name: part / sum(parts.values()) for name, part in parts.items()})


def test_the_verb_writes_numbers_and_a_recipe_that_trains_that_mixture(finished: Path) -> None:
    result = call("mixture", *options(finished))
    run = RunDir(finished / "run")
    assert result.stdout.splitlines()[-1] == str(run.mixture_recipe_path)
    assert "share 0." in result.stdout
    numbers = json.loads(run.analysis_path("mixture").read_text())
    assert sum(numbers["shares"].values()) == pytest.approx(1)
    assert set(numbers) == {"shares", "left_out", "tokens", "recipe", "weights", "mixture_tokens", "n_tokens"}
    assert numbers["recipe"] == "mixture.yaml"
    with run.analysis_path("mixture").with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["vector"]: float(row["share"]) for row in rows} == numbers["shares"]
    assert json.loads(call("mixture", *options(finished), "--json").stdout)["shares"] == numbers["shares"]

    words = ("train", run.mixture_recipe_path, "--mixture", "--run-dir", finished / "other", "--device", "cpu")
    assert call(*words).exit_code == 0
    trained, baseline = TensorFolder(finished / "other/checkpoints/data_mixture"), run.checkpoint_dir(OPTIMISED)
    for name, tensor in TensorFolder(baseline).items():
        assert trained.get(name).equal(tensor), name


def test_a_mixture_of_another_winner_is_not_compared(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe(finished / "study/recipe.yaml", [word for word in options(finished)[5:] if word != "--set"])
    job = pipeline.Job(recipe, RunDir(finished / "run"), "cpu")
    assert trained_mixtures(job) == ["data_mixture", OPTIMISED]
    winner = json.loads(job.run.winner_path.read_text())
    winner["winner"]["weights"]["ja"] *= 2
    job.run.winner_path.write_text(json.dumps(winner))
    assert trained_mixtures(job) == ["data_mixture"]
    assert "data_mixture/optimised is of another winner" in caplog.text

    winner["winner"]["weights"] = {"ja": -0.1, "math": -0.2}
    job.run.winner_path.write_text(json.dumps(winner))
    with pytest.raises(TrainError, match="no dataset a positive weight"):
        call("mixture", *options(finished))
    # A long run does not end for the want of a baseline.
    pipeline.train_optimised(job)
    assert "no data_mixture/optimised: The winner gives no dataset a positive weight" in caplog.text


def test_a_run_without_a_winner_has_no_mixture(micro_recipe: Path, tmp_path: Path) -> None:
    assert call("train", micro_recipe, "--run-dir", tmp_path / "run", "--dataset", "ja").exit_code == 0
    with pytest.raises(OptimerError, match=r"winner\.json is not there; run the stage that writes it first"):
        call("mixture", micro_recipe, "--run-dir", tmp_path / "run")
