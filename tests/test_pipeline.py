"""The whole pipeline on micro settings: what a user finds in the run folder, and that a second run changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from conftest import write_documents, write_micro_recipe

from mergekit_optimer.cli import cli
from mergekit_optimer.vectors import TensorFolder

MODELS = {
    "winner",
    "base_model",
    "single/ja",
    "single/math",
    "uniform_average",
    "sum",
    "ties",
    "dare_linear",
    "data_mixture",
}


def call(*words: Any) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="session")
def finished_once(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished micro recipe."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_micro_recipe(folder / "study", base_dir)
    result = call("run", recipe, "--run-dir", folder / "run", "--device", "cpu")
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A copy of that run; a run folder can be moved."""
    return Path(shutil.copytree(finished_once, tmp_path / "run"))


def report_of(run: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run / "report/report.json").read_text())
    return data


def test_a_run_makes_everything_it_promises(finished: Path, micro_recipe: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = report_of(finished)
    assert set(report["scores"]["held_out"]) == MODELS
    assert set(report["comparison"]["baselines"]) == MODELS - {"winner"}
    for tasks in report["scores"]["held_out"].values():
        assert {task: facts["bits_per_byte"]["n"] for task, facts in tasks.items()} == {"en": 10, "ja": 10, "math": 10}
    assert {"train_s", "merge_s", "score_s", "total_s"} <= set(report["timings"])

    model = AutoModelForCausalLM.from_pretrained(finished / "best/model")
    tokenizer = AutoTokenizer.from_pretrained(finished / "best/model")
    assert model(**tokenizer("Tom has 3 apples.", return_tensors="pt")).logits.isfinite().all()

    card = (finished / "card/README.md").read_text()
    assert card == (finished / "best/model/README.md").read_text()
    assert "- mergekit-optimer" in card
    assert str(finished) not in card
    assert str(micro_recipe.parent) not in card
    assert "](search.png)" in card
    figure = (finished / "report/figures/search.png").read_bytes()
    assert figure == (finished / "card/search.png").read_bytes() == (finished / "best/model/search.png").read_bytes()
    shown = [(trial["number"], trial["kind"], trial["state"]) for trial in report["trials"]]
    assert shown[:5] == [(number, "warm_start", "scored") for number in range(5)]
    assert len((finished / "report/figures/search.csv").read_text().splitlines()) == 1 + len(shown) == 7
    # The first trial is all weights 0: the base model itself.
    assert report["search"]["base_value"] == report["trials"][0]["value"]
    assert len(list((finished / "trials").glob("*/scores.json"))) == 6
    assert not list((finished / "trials").glob("*/model"))
    assert not [path for path in finished.rglob("*") if path.name.startswith(".tmp-")]

    # The winner's weights give the winner's tensors.
    weights = {vector["name"]: vector["weight"] for vector in report["vectors"]}
    merged, base = TensorFolder(finished / "best/model"), TensorFolder(micro_recipe.parent / "base")
    for name, theta in base.items():
        shift = sum(w * TensorFolder(finished / "vectors" / v).get(name).double() for v, w in weights.items())
        assert torch.allclose(merged.get(name).double(), theta.double() + shift, rtol=1e-5, atol=1e-7)

    # Held-out samples were never among what the search scored.
    dev = {line for path in (finished / "samples/dev").rglob("*.jsonl") for line in path.read_text().splitlines()}
    held_out = {line for p in (finished / "samples/held_out").rglob("*.jsonl") for line in p.read_text().splitlines()}
    assert dev
    assert held_out
    assert not dev & held_out


def test_a_second_run_skips_every_stage_and_changes_no_number(
    finished: Path, micro_recipe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*.json") if path.name != "manifest.json"}
    model = (finished / "best/model/model.safetensors").stat().st_mtime_ns
    caplog.clear()
    result = call("run", micro_recipe, "--run-dir", finished, "--device", "cpu", "--json")
    assert result.exit_code == 0
    skipped = [message for message in caplog.messages if "nothing changed" in message]
    assert [line.partition(":")[0] for line in skipped] == [
        "train/ja",
        "train/math",
        "train/data_mixture",
        "vectors/ja",
        "vectors/math",
        "search",
        "merge_winner",
        "compare",
    ]
    assert {path: path.read_bytes() for path in before} == before
    assert (finished / "best/model/model.safetensors").stat().st_mtime_ns == model


@pytest.mark.parametrize(
    "lost", ["held_out.json", "checkpoints/ja", "vectors/math", "best/model", "best/winner.json", "recipe.yaml"]
)
def test_what_was_deleted_from_a_finished_run_is_made_again(finished: Path, micro_recipe: Path, lost: str) -> None:
    before = report_of(finished)["scores"]
    path = finished / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    result = call("run", micro_recipe, "--run-dir", finished, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert path.exists()
    assert report_of(finished)["scores"] == before


def test_changed_held_out_texts_are_scored_anew(finished: Path, micro_recipe: Path) -> None:
    before = report_of(finished)["scores"]["held_out"]["winner"]
    write_documents(micro_recipe.parent / "data/ja.held_out.jsonl", "ja", 10, seed=99)
    assert call("run", micro_recipe, "--run-dir", finished, "--device", "cpu").exit_code == 0
    after = report_of(finished)["scores"]["held_out"]["winner"]
    assert after["ja"] != before["ja"]
    assert after["math"] == before["math"]


def test_a_training_that_was_finished_but_not_noted_is_not_done_twice(finished: Path, micro_recipe: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    del manifest["stages"]["train/ja"]
    (finished / "manifest.json").write_text(json.dumps(manifest))
    weights = (finished / "checkpoints/ja/model.safetensors").stat().st_mtime_ns
    assert call("train", micro_recipe, "--run-dir", finished, "--device", "cpu").exit_code == 0
    assert (finished / "checkpoints/ja/model.safetensors").stat().st_mtime_ns == weights


def test_reading_a_run_changes_nothing_of_it(finished: Path, micro_recipe: Path) -> None:
    before = {name: (finished / name).read_bytes() for name in ("manifest.json", "recipe.yaml")}
    longer = ("--run-dir", finished, "--device", "cpu", "--set", "search.n_trials=77")
    assert call("report", micro_recipe, *longer).exit_code == 0
    assert call("card", micro_recipe, *longer).exit_code == 0
    assert {name: (finished / name).read_bytes() for name in before} == before
    assert "77" not in report_of(finished)["command"]


def test_a_baseline_that_collapses_is_told_and_stops_nothing(finished: Path, micro_recipe: Path) -> None:
    data = json.loads((finished / "held_out.json").read_text())
    data["models"]["sum"]["tasks"]["ja"]["metrics"]["bits_per_byte"]["values"][3] = None
    (finished / "held_out.json").write_text(json.dumps(data))
    result = call("run", micro_recipe, "--run-dir", finished, "--device", "cpu")
    assert result.exit_code == 0, result.output
    report = report_of(finished)
    assert report["comparison"]["collapsed"] == {"sum": ["ja"]}
    assert report["scores"]["held_out"]["sum"]["ja"]["bits_per_byte"]["value"] == 8.0


def test_a_longer_study_goes_on_in_the_same_folder(finished: Path, micro_recipe: Path) -> None:
    first = (finished / "trials/0003/scores.json").stat().st_mtime_ns
    result = call("run", micro_recipe, "--run-dir", finished, "--device", "cpu", "--set", "search.n_trials=8")
    assert result.exit_code == 0
    assert report_of(finished)["search"]["n_trials"] == 8
    assert (finished / "trials/0003/scores.json").stat().st_mtime_ns == first


def test_the_stages_run_alone_one_after_the_other(micro_recipe: Path, tmp_path: Path) -> None:
    options = (micro_recipe, "--run-dir", tmp_path / "run", "--device", "cpu")
    early = call_error("search", *options)
    assert f"run `mergekit-optimer train recipe.yaml --run-dir {tmp_path / 'run'}` and" in early
    for words in (("train",), ("vectors", "extract"), ("search",), ("compare",)):
        result = call(*words, *options)
        assert result.exit_code == 0, result.output
    shown = json.loads(call("vectors", "show", *options, "--json").stdout)
    assert set(shown["vectors"]) == {"ja", "math"}
    assert "ja" in call("vectors", "show", *options).stdout
    assert json.loads(call("report", *options, "--json").stdout) == report_of(tmp_path / "run")
    assert call("card", *options).stdout.strip() == str(tmp_path / "run/card/README.md")

    scores = call("evaluate", micro_recipe, tmp_path / "run/best/model", "--held-out", "--json", "--device", "cpu")
    found = json.loads(scores.stdout)["ja"]["metrics"]["bits_per_byte"]["values"]
    kept = json.loads((tmp_path / "run/held_out.json").read_text())["models"]["winner"]["tasks"]["ja"]
    assert found == pytest.approx(kept["metrics"]["bits_per_byte"]["values"])

    out = tmp_path / "merged"
    merged = call("merge", micro_recipe, out, "--run-dir", tmp_path / "run", "--weight", "ja=0.5", "--portable",
                  tmp_path / "plain.yaml")  # fmt: skip
    assert merged.exit_code == 0, merged.output
    assert call("merge", tmp_path / "plain.yaml", tmp_path / "plain", "--out-shard-size", "1B").exit_code == 0
    for name, tensor in TensorFolder(out).items():
        assert torch.allclose(TensorFolder(tmp_path / "plain").get(name), tensor, rtol=1e-5, atol=2e-7)


def call_error(*words: Any) -> str:
    """Run a command that must end with a known error; returns its sentence."""
    from mergekit_optimer.errors import OptimerError

    with pytest.raises(OptimerError) as caught:
        call(*words)
    return str(caught.value)


def test_a_changed_recipe_in_a_run_folder_is_refused(micro_recipe: Path, tmp_path: Path) -> None:
    assert call("train", micro_recipe, "--run-dir", tmp_path / "run", "--dataset", "ja").exit_code == 0
    sentence = call_error("train", micro_recipe, "--run-dir", tmp_path / "run", "--set", "train.defaults.max_steps=5")
    assert "train.defaults.max_steps (4 -> 5)" in sentence
    assert "--run-dir" in sentence


@pytest.mark.parametrize(("part", "what"), [("dev", "dev task 'ja'"), ("train", "dataset 'ja'")])
def test_what_held_out_shares_with_dev_or_training_is_refused_before_any_work(
    micro_recipe: Path, tmp_path: Path, part: str, what: str
) -> None:
    data = micro_recipe.parent / "data"
    leaked = (data / f"ja.{part}.jsonl").read_text().splitlines()[2]
    with (data / "ja.held_out.jsonl").open("a") as file:
        file.write(leaked + "\n")
    sentence = call_error("run", micro_recipe, "--run-dir", tmp_path / "run")
    assert f"Held-out task 'ja' shares 1 text with {what}" in sentence
    assert not (tmp_path / "run/checkpoints").exists()


def test_compare_alone_refuses_a_leaking_held_out_set(finished: Path, micro_recipe: Path) -> None:
    data = micro_recipe.parent / "data"
    shutil.copyfile(data / "ja.dev.jsonl", data / "ja.held_out.jsonl")
    assert "shares 8 texts with dev task 'ja'" in call_error("compare", micro_recipe, "--run-dir", finished)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("held_out.ja.max_tokens=4096", "4096"),
        ("train.defaults.max_length=4096", "beyond the 128 positions"),
        ("held_out.ja.path=data/one.jsonl", "needs 2 or more"),
    ],
)
def test_what_would_fail_after_the_search_is_refused_before_the_training(
    micro_recipe: Path, tmp_path: Path, setting: str, sentence: str
) -> None:
    write_documents(micro_recipe.parent / "data/one.jsonl", "ja", 1, seed=7)
    assert sentence in call_error("run", micro_recipe, "--run-dir", tmp_path / "run", "--set", setting)
    assert not (tmp_path / "run/checkpoints").exists()


OWN_TASK = """
from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc


def prompt(line, task_name=None):
    return Doc(task_name=task_name, query=line["text"][:10], choices=[" a", " b"], gold_index=0)


TASKS_TABLE = [
    LightevalTaskConfig(
        name="own", prompt_function=prompt, hf_repo=FOLDER, hf_subset="default", hf_avail_splits=["train"],
        evaluation_splits=["train"], metrics=[Metrics.loglikelihood_acc], stop_sequence=["x"],
    )
]
"""


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"held_out": {"own": {"kind": "lighteval", "task": "own|0", "metric": "accc"}}}, "no metric 'accc', only acc"),
        ({"vectors": {"it": {"checkpoint": {"path": "nowhere"}}}}, "nowhere does not exist"),
        ({"vectors": {"it": {"checkpoint": {"path": "base"}, "base": {"path": "none"}}}}, "none does not exist"),
        ({"vectors": {"it": {"delta": {"path": "base"}}}}, "holds no distribution_vector.json"),
    ],
)
def test_a_wrong_task_or_vector_from_elsewhere_is_found_before_the_training(
    micro_recipe: Path, section: dict[str, Any], sentence: str
) -> None:
    recipe = yaml.safe_load(micro_recipe.read_text())
    for key, value in section.items():
        recipe[key] = recipe.get(key, {}) | value
    for task in recipe["held_out"].values():
        if task["kind"] == "lighteval":
            folder = micro_recipe.parent / "own"
            write_documents(folder / "train.jsonl", "en", 4, seed=50)
            (micro_recipe.parent / "own.py").write_text(OWN_TASK.replace("FOLDER", repr(str(folder))))
            task["file"] = "own.py"
    micro_recipe.write_text(yaml.safe_dump(recipe))
    assert sentence in call_error("validate", micro_recipe)


def test_a_model_left_by_a_killed_trial_is_swept(finished: Path, micro_recipe: Path) -> None:
    left = finished / "trials/0002/.tmp-model"
    left.mkdir()
    assert call("run", micro_recipe, "--run-dir", finished, "--device", "cpu").exit_code == 0
    assert not left.exists()


def test_the_total_time_is_the_sum_of_its_parts(finished: Path, micro_recipe: Path) -> None:
    longer = ("--run-dir", finished, "--device", "cpu", "--set", "search.n_trials=7")
    assert call("run", micro_recipe, *longer).exit_code == 0
    timings = report_of(finished)["timings"]
    assert timings.pop("total_s") == pytest.approx(sum(timings.values()))


def test_vectors_from_elsewhere_need_no_training(finished: Path, micro_recipe: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load(micro_recipe.read_text())
    del recipe["train"]
    recipe["name"] = "from-elsewhere"
    shutil.copytree(finished / "vectors/ja", micro_recipe.parent / "dv-ja")
    # Two checkpoints in folders of one name, one with the base for its own base.
    for name in ("ja", "math"):
        shutil.copytree(finished / "checkpoints" / name, tmp_path / name / "final")
    recipe["vectors"] = {
        "ja": {"delta": {"path": "dv-ja"}},
        "math": {"checkpoint": {"path": str(tmp_path / "math/final")}, "dtype": "bfloat16"},
        "more": {"checkpoint": {"path": str(tmp_path / "ja/final")}, "base": {"path": "base"}},
        "most": {"checkpoint": {"path": "checkpoints/more"}},
    }
    shutil.copytree(finished / "checkpoints/ja", micro_recipe.parent / "checkpoints/more")
    recipe["search"]["n_trials"] = 6
    other = micro_recipe.with_name("other.yaml")
    other.write_text(yaml.safe_dump(recipe))
    result = call("run", other, "--run-dir", tmp_path / "other", "--device", "cpu")
    assert result.exit_code == 0, result.output
    report = report_of(tmp_path / "other")
    assert set(report["scores"]["held_out"]) == (MODELS | {"single/more", "single/most"}) - {"data_mixture"}
    models = [entry["model"] for entry in yaml.safe_load(report["portable_yaml"])["models"]]
    assert models == ["base", "dv-ja", "checkpoints/math", "checkpoints/more", "checkpoints/most"]
    plain = call("merge", tmp_path / "other/best/merge.portable.yaml", tmp_path / "plain")
    assert plain.exit_code == 0, plain.output
    for name, tensor in TensorFolder(tmp_path / "other/best/model").items():
        assert torch.allclose(TensorFolder(tmp_path / "plain").get(name), tensor, rtol=1e-3, atol=1e-4)


def test_a_vector_of_another_base_is_refused_before_the_first_trial(
    finished: Path, micro_recipe: Path, tiny_model: Any, tmp_path: Path
) -> None:
    recipe = yaml.safe_load(micro_recipe.read_text())
    del recipe["train"]
    recipe["base_model"] = {"path": str(tiny_model("another", seed=5))}
    recipe["vectors"] = {"ja": {"delta": {"path": str(finished / "vectors/ja")}}}
    other = micro_recipe.with_name("other.yaml")
    other.write_text(yaml.safe_dump(recipe))
    assert "'ja' was made from base" in call_error("run", other, "--run-dir", tmp_path / "other")
    assert not (tmp_path / "other/trials").exists()


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "gpt2"])
def test_other_architectures_run_with_no_change_of_code(
    arch: str, micro_recipe: Path, tiny_model: Any, tmp_path: Path
) -> None:
    other = tiny_model(f"pipeline-{arch}", arch=arch)
    words = ["run", micro_recipe, "--run-dir", tmp_path / arch, "--device", "cpu"]
    for setting in (
        f"base_model.path={other}",
        "search.n_trials=2",
        "train.mixture=null",
        "train.defaults.max_steps=2",
    ):
        words += ["--set", setting]
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert set(report_of(tmp_path / arch)["scores"]["held_out"]) == MODELS - {"data_mixture"}


def test_a_search_leaves_neither_live_model_nor_mapped_files_behind(micro_recipe: Path, tmp_path: Path) -> None:
    # In a process of its own, where lighteval is imported for the first time with a model at hand.
    code = """
import sys, weakref
from pathlib import Path
from mergekit_optimer.pipeline import Job, MergeAndScorer, make_vectors, search_weights, train_pool
from mergekit_optimer.recipe import load_recipe
from mergekit_optimer.runs import open_run
recipe = load_recipe(Path(sys.argv[1]))
job = Job(recipe, open_run(Path(sys.argv[2]), recipe), "cpu")
train_pool(job, mixture=False)
make_vectors(job)
held, load = [], MergeAndScorer.load
def watched(self):
    load(self)
    held.extend(map(weakref.ref, (self, self._live, self._resident)))
MergeAndScorer.load = watched
search_weights(job)
print([type(one()).__name__ for one in held if one() is not None])
"""
    words = [sys.executable, "-c", code, str(micro_recipe), str(tmp_path / "run")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == "[]"
