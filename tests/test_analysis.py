"""Analyses of a finished run as a user meets them: numbers, tables and figures of vectors, attribution and cost."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from conftest import make_scores, write_micro_recipe

from mergekit_optimer.analysis import (
    Spent,
    attribute,
    counted_parameters,
    pool_geometry,
    scoring_cost,
    search_cost,
    study_importances,
    training_cost,
)
from mergekit_optimer.cli import cli
from mergekit_optimer.files import read_json
from mergekit_optimer.recipe import WeightInterval
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.search import TrialRecord
from mergekit_optimer.vectors import TensorFolder, VectorPool, load_vector


def call(*words: Any, catch: bool = False) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=catch)


@pytest.fixture(scope="module")
def finished_once(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Recipe and run folder of a finished micro run that kept two points of each training."""
    folder = tmp_path_factory.mktemp("analysed")
    recipe = write_micro_recipe(folder / "study", base_dir)
    data = yaml.safe_load(recipe.read_text())
    data["train"]["keep_checkpoints"] = 2
    data["search"]["n_trials"] = 12
    recipe.write_text(yaml.safe_dump(data))
    result = call("run", recipe, "--run-dir", folder / "run", "--device", "cpu")
    assert result.exit_code == 0, result.output
    return recipe, folder / "run"


@pytest.fixture
def finished(finished_once: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    recipe, run = finished_once
    return recipe, Path(shutil.copytree(run, tmp_path / "run"))


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def flat(folder: Path, only: str = "") -> torch.Tensor:
    return torch.cat([tensor.double().reshape(-1) for name, tensor in TensorFolder(folder).items() if only in name])


def test_vectors_show_figures_writes_numbers_and_figures(finished: tuple[Path, Path]) -> None:
    recipe, run = finished
    result = call("vectors", "show", recipe, "--run-dir", run, "--device", "cpu", "--figures")
    assert result.exit_code == 0, result.output
    listed = [line for line in result.stdout.splitlines() if line.startswith(str(run))]
    assert [Path(line).relative_to(run).as_posix() for line in listed] == [
        "analysis/geometry.json",
        "analysis/geometry.csv",
        "analysis/trajectory.json",
        "analysis/trajectory.csv",
        "report/figures/cosines.png",
        "report/figures/norms.png",
        "report/figures/cosines_by_layer.png",
        "report/figures/trajectory.png",
    ]
    figures = {Path(line): Path(line).read_bytes() for line in listed if line.endswith(".png")}
    assert all(content.startswith(b"\x89PNG") for content in figures.values())

    data = read_json(run / "analysis/geometry.json")
    ja, math_ = flat(run / "vectors/ja"), flat(run / "vectors/math")
    cosine = float(ja @ math_ / ja.norm() / math_.norm())
    assert data["cosines"]["total"]["ja"]["math"] == pytest.approx(cosine, abs=1e-12)
    assert data["cosines"]["total"]["math"]["ja"] == data["cosines"]["total"]["ja"]["math"]
    layer = flat(run / "vectors/ja", "layers.1."), flat(run / "vectors/math", "layers.1.")
    assert data["cosines_by_layer"]["1"]["ja"]["math"] == pytest.approx(
        float(layer[0] @ layer[1] / layer[0].norm() / layer[1].norm()), abs=1e-12
    )
    assert data["norms_by_layer"]["1"]["ja"] == pytest.approx(float(layer[0].norm()), rel=1e-12)
    assert data["vectors"]["ja"]["norm"] == pytest.approx(float(ja.norm()), rel=1e-6)
    assert data["vectors"]["ja"]["applied_fraction"] == pytest.approx(1.0, abs=1e-3)
    table = rows_of(run / "analysis/geometry.csv")
    assert [float(row["cosine"]) for row in table if (row["group"], row["other"]) == ("total", "math")] == [
        data["cosines"]["total"]["ja"]["math"],
        1.0,
    ]
    sizes = {row["vector"]: float(row["relative_norm"]) for row in table if row["relative_norm"]}
    assert sizes == {name: data["vectors"][name]["relative_norm"] for name in ("ja", "math")}
    assert sizes["ja"] == pytest.approx(float(ja.norm() / flat(recipe.parent / "base").norm()), rel=1e-6)

    trained = read_json(run / "analysis/trajectory.json")
    assert [point["step"] for point in trained["vectors"]["ja"]["points"]] == [1, 3, 4]
    assert trained["meaning"]["ja"]["sentence"] in result.stdout
    assert len(rows_of(run / "analysis/trajectory.csv")) == 6

    # Again, the same bytes.
    assert call("vectors", "show", recipe, "--run-dir", run, "--device", "cpu", "--figures").exit_code == 0
    assert {path: path.read_bytes() for path in figures} == figures


def test_vectors_show_alone_writes_nothing(finished: tuple[Path, Path]) -> None:
    recipe, run = finished
    before = sorted(run.rglob("*"))
    result = call("vectors", "show", recipe, "--run-dir", run, "--device", "cpu")
    assert result.exit_code == 0
    assert "cosines, total:" in result.stdout
    assert "The 2 vectors are" in result.stdout
    assert sorted(run.rglob("*")) == before


def test_points_on_the_way_are_not_sent_with_a_checkpoint(finished: tuple[Path, Path]) -> None:
    from mergekit_optimer.pipeline import Job
    from mergekit_optimer.pipeline.uploads import checkpoint_uploads
    from mergekit_optimer.recipe import load_recipe
    from mergekit_optimer.runs import RunDir

    recipe, run = finished
    assert (run / "checkpoints/ja/trajectory").is_dir()
    assert not (run / "checkpoints/data_mixture/trajectory").exists()
    job = Job(load_recipe(recipe), RunDir(run), "cpu")
    uploads = checkpoint_uploads(job, ["ja"], "org/cpt-", private=True)
    assert set(uploads["ja"].files) == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_record.json",
    }


def test_attribution_says_what_the_winner_loses_without_a_vector(finished: tuple[Path, Path]) -> None:
    recipe, run = finished
    result = call("compare", recipe, "--run-dir", run, "--device", "cpu", "--attribution")
    assert result.exit_code == 0, result.output
    assert "What each vector brings" in result.stdout
    assert "Importances are another thing: PED-ANOVA" in result.stdout
    data = read_json(run / "analysis/attribution.json")
    weights = read_json(run / "best/winner.json")["winner"]["weights"]
    assert {name: one["weight"] for name, one in data["vectors"].items()} == weights

    # The winner without ja is the base plus math alone: scored as any other model is.
    rest = {name: 0.0 if name == "ja" else weight for name, weight in weights.items()}
    words = [word for name, weight in rest.items() for word in ("--weight", f"{name}={weight!r}")]
    merged = call("merge", recipe, run.parent / "merged", "--run-dir", run, *words)
    assert merged.exit_code == 0, merged.output
    scored = call("evaluate", recipe, run.parent / "merged", "--held-out", "--device", "cpu", "--json")
    without = {name: TaskScores.from_json(one).score for name, one in json.loads(scored.stdout).items()}
    winner = read_json(run / "held_out.json")["models"]["winner"]["tasks"]
    for task, score in without.items():
        # Fewer bits per byte are better.
        wanted = score.value - TaskScores.from_json(winner[task]).score.value
        found = data["vectors"]["ja"]["tasks"][task]
        assert found["difference"] == pytest.approx(wanted, abs=1e-6)
        assert found["low"] <= found["difference"] <= found["high"]
    mean = sum(one["difference"] for one in data["vectors"]["ja"]["tasks"].values()) / 3
    assert data["vectors"]["ja"]["mean"]["difference"] == pytest.approx(mean, abs=1e-12)
    assert sum(data["importances"].values()) == pytest.approx(1.0)
    table = rows_of(run / "analysis/attribution.csv")
    assert [row["held_out"] for row in table] == ["en", "ja", "math", "mean"] * 2
    assert [float(row["importance"]) for row in table if row["held_out"] == "mean"] == list(
        data["importances"].values()
    )


def test_attribution_scores_nothing_twice(finished: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    recipe, run = finished
    assert call("compare", recipe, "--run-dir", run, "--device", "cpu", "--attribution").exit_code == 0
    before = (run / "analysis/attribution.json").read_bytes()
    caplog.clear()
    assert call("compare", recipe, "--run-dir", run, "--device", "cpu", "--attribution").exit_code == 0
    assert not [message for message in caplog.messages if message.startswith("attribution")]
    assert (run / "analysis/attribution.json").read_bytes() == before
    # A kill after the first vector: the other is scored, the first is not.
    kept = read_json(run / "analysis/attribution_scores.json")
    del kept["models"]["math"]
    (run / "analysis/attribution_scores.json").write_text(json.dumps(kept))
    caplog.clear()
    assert call("compare", recipe, "--run-dir", run, "--device", "cpu", "--attribution").exit_code == 0
    scored = [message for message in caplog.messages if message.startswith("attribution")]
    assert [message.partition(":")[0] for message in scored] == ["attribution 2/2  without math"]
    assert (run / "analysis/attribution.json").read_bytes() == before


def test_cost_counts_what_was_trained_and_scored(finished: tuple[Path, Path]) -> None:
    from transformers import AutoTokenizer

    recipe, run = finished
    result = call("cost", recipe, "--run-dir", run, "--device", "cpu")
    assert result.exit_code == 0, result.output
    data = read_json(run / "analysis/cost.json")
    base = TensorFolder(recipe.parent / "base")
    # Tied: the embedding is the output layer too.
    n = sum(math.prod(base.shape(name)) for name in base.names)
    assert data["parameters"] == n
    records = [read_json(run / "checkpoints" / name / "training_record.json") for name in ("ja", "math")]
    tokens = sum(record["n_tokens_trained"] for record in records)
    assert data["pool"]["tokens"] == tokens
    assert data["pool"]["seconds"] == pytest.approx(sum(record["elapsed_s"] for record in records))
    assert data["pool"]["flops"] == 6 * n * tokens

    tokenizer = AutoTokenizer.from_pretrained(recipe.parent / "base")
    lengths = {}
    for task in ("en", "ja", "math"):
        samples = [json.loads(line) for line in (run / f"samples/dev/{task}/test.jsonl").read_text().splitlines()]
        lengths[task] = [len(tokenizer(one["context"] + one["target"])["input_ids"]) for one in samples]
    trials = [read_json(path) for path in sorted((run / "trials").glob("*/scores.json"))]
    own = [trial for trial in trials if trial["same_as"] is None]
    wanted = sum(sum(lengths[task][: trial["n_samples"]]) for trial in own for task in lengths)
    assert data["search"]["tokens"] == wanted
    assert data["search"]["flops"] == 2 * n * wanted
    assert data["mixtures_searched"] == len(own)
    mixture = read_json(run / "checkpoints/data_mixture/training_record.json")
    assert data["mixture"]["tokens"] == mixture["n_tokens_trained"]
    flops = len(own) * 6 * n * mixture["n_tokens_trained"] + 2 * n * wanted
    assert data["mixtures_total"]["flops"] == pytest.approx(flops)
    assert data["ratio_flops"] == pytest.approx(flops / (6 * n * tokens + 2 * n * wanted))
    assert data["formula"] in result.stdout
    assert "15 to 35 times, as reported" in result.stdout
    assert [row["part"] for row in rows_of(run / "analysis/cost.csv")] == [
        "pool",
        "search",
        "pool and search",
        "one mixture",
        f"{len(own)} mixtures searched",
    ]


def test_a_cost_that_is_not_all_known_gives_no_flattering_ratio() -> None:
    pool, search = Spent(0, 0.0, 0.0), Spent(100, 2.0, 200.0)
    found = search_cost(pool, search, None, 4, Spent(25, 0.5, 50.0), 1, ["the training of vector it"])
    assert (found.ratio_seconds, found.ratio_flops, found.next_objective.seconds) == (None, None, None)
    assert found.sentence.endswith("no ratio is given, for not all is known: the training of vector it.")


def test_the_ratio_is_of_trained_mixtures_over_pool_and_search() -> None:
    pool = training_cost(1000, 10.0, parameters=3)
    assert pool == Spent(1000, 10.0, 18000.0)
    trial = scoring_cost(50, 0, 0.5, parameters=3)
    search = scoring_cost(1000, 100, 12.0, parameters=3)
    assert search == Spent(1100, 12.0, 3 * (2 * 1000 + 6 * 100))
    found = search_cost(pool, search, None, 20, trial, 3, [])
    assert found.mixtures_total == Spent(21000, 210.0, 20 * (18000.0 + 300.0))
    assert found.ratio_seconds == pytest.approx(210 / 22)
    assert found.ratio_flops == pytest.approx(366000 / (18000 + 7800))
    assert found.next_objective.seconds == pytest.approx(210 / 12)


def test_an_untied_model_is_counted_without_its_input_embeddings(tiny_model: Any) -> None:
    untied, tied = tiny_model("untied", tied=False), tiny_model("tied")
    assert counted_parameters(TensorFolder(untied)) == counted_parameters(TensorFolder(tied))
    gpt2 = TensorFolder(tiny_model("positions", arch="gpt2"))
    positions = next(name for name in gpt2.names if name.endswith("wpe.weight"))
    everything = sum(math.prod(gpt2.shape(name)) for name in gpt2.names)
    assert counted_parameters(gpt2) == everything - math.prod(gpt2.shape(positions))


def test_a_vector_that_helps_and_one_that_harms_are_told_apart() -> None:
    shifts = {
        "winner": {"ja": 0.30, "choice_math": 0.20},
        "base_model": {"ja": 0.0, "choice_math": 0.0},
        "a": {"ja": 0.05, "choice_math": 0.15},
        "b": {"ja": 0.45, "choice_math": 0.40},
        "c": {"ja": 0.30, "choice_math": 0.20},
    }
    scores = make_scores(shifts, 200, seed=3)
    without = {name: scores[name] for name in "abc"} | {"d": scores["winner"]}
    weights = {"a": 0.5, "b": 0.4, "c": -0.1, "d": 0.0}
    found = attribute(
        weights, scores["winner"], scores["base_model"], without, (None, "none"), seed=0, n_resamples=1000
    )
    assert {name: one.mean.word for name, one in found.vectors.items()} == {
        "a": "helps",
        "b": "harms",
        "c": "no clear difference",
        "d": "no clear difference",
    }
    assert found.vectors["a"].tasks["ja"].difference == pytest.approx(0.25, abs=0.03)
    unused = found.vectors["d"].mean
    assert (unused.difference, unused.low, unused.high) == (0.0, 0.0, 0.0)
    assert found.mean_of == "relative_gains"


def trial(number: int, weights: dict[str, float], value: float, **more: Any) -> TrialRecord:
    return TrialRecord(number, weights, "sampler", 4, {4: value}, {4: True}, [], 0.0, 0.0, {}, **more)


def test_importances_find_the_weight_that_decides() -> None:
    import random

    rng = random.Random(0)
    intervals = {name: WeightInterval(low=0.0, high=1.0) for name in ("a", "b")}
    weights = [{"a": rng.random(), "b": rng.random()} for _ in range(60)]
    records = [trial(i, w, -((w["a"] - 0.7) ** 2) - 0.001 * w["b"]) for i, w in enumerate(weights)]
    stopped = trial(60, {"a": 0.1, "b": 0.1}, 9.0, stopped="race")
    shares, method = study_importances([*records, stopped], intervals, 4)
    assert shares is not None
    assert shares["a"] > 0.7
    assert shares["a"] + shares["b"] == pytest.approx(1.0)
    assert "over 60 trials" in method
    few, why = study_importances(records[:5], intervals, 4)
    assert few is None
    assert why.endswith("too few, it needs 10")


def test_a_pool_of_one_vector_has_a_geometry(finished: tuple[Path, Path]) -> None:
    recipe, run = finished
    folder = run / "vectors/ja"
    pool = VectorPool(recipe.parent / "base", {"ja": folder}, {"ja": load_vector(folder)})
    found = pool_geometry(pool, "float32")
    assert found.pairs == []
    assert found.sentence == "The pool has one vector, so there is no cosine."
    assert found.cosines["total"] == {"ja": {"ja": pytest.approx(1.0)}}


def test_a_run_that_is_not_finished_is_told_what_to_run(finished: tuple[Path, Path], micro_recipe: Path) -> None:
    from mergekit_optimer.errors import OptimerError, RunFolderError

    recipe, run = finished
    (run / "best/winner.json").unlink()
    with pytest.raises(RunFolderError, match="run the stage that writes it first"):
        call("cost", recipe, "--run-dir", run, "--device", "cpu")
    with pytest.raises(OptimerError, match="holds no run"):
        call("cost", micro_recipe, "--run-dir", run.parent / "nowhere")
