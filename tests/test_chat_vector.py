"""A vector with another base than the destination: the merge is theta_cpt + w (theta_it - theta_pt), by every road."""

from __future__ import annotations

import importlib.util
import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import make_tokenizer, write_micro_recipe
from safetensors.torch import load_file, save_file

from mergekit_optimer.cli import cli
from mergekit_optimer.errors import OptimerError
from mergekit_optimer.recipe import load_recipe
from mergekit_optimer.vectors import TensorFolder

FOLDER = Path(__file__).resolve().parent.parent / "recipes/chat_vector"
ROOT = FOLDER.parent.parent
WORDS = ("--device", "cpu")


def tuned(source: Path, target: Path, seed: int) -> Path:
    """A copy of a model, a little way from it."""
    shutil.copytree(source, target)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(source / "model.safetensors")
    moved = {name: tensor + 0.02 * torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    save_file(moved, target / "model.safetensors", {"format": "pt"})
    return target


def read(path: Path) -> list[dict[str, Any]]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture
def study(base_dir: Path, tmp_path: Path) -> Path:
    """A recipe whose destination was trained further from the base that the instruction-tuned model comes from."""
    path = write_micro_recipe(tmp_path / "study", base_dir)
    tuned(path.parent / "base", path.parent / "cpt", seed=1)
    it = tuned(path.parent / "base", path.parent / "it", seed=2)
    # As instruction-tuned models have it: the same rows, other special tokens.
    make_tokenizer(it, eos=False)
    recipe = yaml.safe_load(path.read_text())
    del recipe["train"]
    recipe["base_model"] = {"path": "cpt"}
    recipe["vectors"] = {"it": {"checkpoint": {"path": "it"}, "base": {"path": "base"}}}
    recipe["search"] |= {"n_trials": 3, "warm_starts": ["half"], "weights": {"low": 0.2, "high": 0.9}}
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_a_chat_vector_is_added_to_a_model_trained_further_and_plain_mergekit_does_the_same(
    study: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = CliRunner().invoke(cli, ["run", str(study), "--run-dir", str(run), *WORDS], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    weight = json.loads((run / "best/winner.json").read_text())["winner"]["weights"]["it"]
    assert 0.2 <= weight <= 0.9

    cpt, it, pt = (TensorFolder(study.parent / name) for name in ("cpt", "it", "base"))
    wanted = {name: tensor + weight * (it.get(name) - pt.get(name)) for name, tensor in cpt.items()}
    merged = TensorFolder(run / "best/model")
    for name, tensor in wanted.items():
        torch.testing.assert_close(merged.get(name), tensor, rtol=1e-6, atol=1e-7)

    # A process that never sees this package.
    portable = run / "best/merge.portable.yaml"
    plan = yaml.safe_load(portable.read_text())
    assert plan["merge_method"] == "task_arithmetic"
    by_folder = {Path(entry["model"]).name: entry["parameters"]["weight"] for entry in plan["models"]}
    assert by_folder == {"it": weight, "base": -weight}
    code = "import sys; from mergekit.scripts.run_yaml import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", code, str(portable), str(tmp_path / "plain")]
    subprocess.run(words, check=True, capture_output=True)
    plain = TensorFolder(tmp_path / "plain")
    for name, tensor in wanted.items():
        torch.testing.assert_close(plain.get(name), tensor, rtol=1e-6, atol=1e-6)

    card = (run / "card/README.md").read_text()
    assert "single/it" in card
    assert "What continual pre-training" not in card


@pytest.mark.parametrize("of", ["it", "base"])
def test_another_vocabulary_is_refused_before_the_first_trial(study: Path, tmp_path: Path, of: str) -> None:
    make_tokenizer(study.parent / of, vocab_size=380)
    words: list[Any] = ["run", study, "--run-dir", tmp_path / "run", *WORDS]
    with pytest.raises(OptimerError, match="'it' has another tokenizer than its base"):
        CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert not (tmp_path / "run/trials").exists()


def test_the_shipped_recipes_name_what_the_commands_make() -> None:
    toy, it, gemma = (load_recipe(FOLDER / f"{name}.yaml") for name in ("recipe", "it", "gemma2"))
    base = it.resolve(str(it.base_model.path))
    assert base == ROOT / "recipes/demo/data/base"
    vector = toy.pool["it"]
    assert vector.base is not None
    assert vector.checkpoint is not None
    assert toy.resolve(str(vector.base.path)) == base
    assert toy.resolve(str(vector.checkpoint.path)) == ROOT / f"runs/{it.name}/checkpoints/it"
    demo = load_recipe(ROOT / "recipes/demo/recipe.yaml")
    assert toy.resolve(str(toy.base_model.path)) == ROOT / f"runs/{demo.name}/checkpoints/ja"
    assert demo.resolve(str(demo.base_model.path)) == base
    assert gemma.pool["it"].base is not None
    for recipe in (toy, it):
        for task in (*recipe.tasks.values(), *recipe.held_out.values()):
            assert recipe.resolve(str(task.path)).is_file()  # type: ignore[union-attr]


def test_the_conversations_are_the_demos_word_problems_and_keep_its_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("build_conversations", FOLDER / "build_conversations.py")
    assert spec is not None
    assert spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    monkeypatch.setattr(builder, "DATA_DIR", tmp_path)
    builder.main()
    names = [f"chat.{role}.jsonl.xz" for role in ("dev", "held_out", "train")]
    assert sorted(path.name for path in (FOLDER / "data").iterdir()) == names
    stories: list[set[str]] = []
    for name in names:
        rows = read(FOLDER / "data" / name)
        assert rows == read(tmp_path / name)
        assert all(row["text"].startswith("User: ") and "\nAssistant: " in row["text"] for row in rows)
        stories.append({row["id"].rpartition("-")[0] for row in rows})
    assert not stories[0] & stories[1]
    assert not (stories[0] | stories[1]) & stories[2]


def test_the_shipped_portable_merge_is_the_one_that_the_readme_tells_of() -> None:
    plan = yaml.safe_load((FOLDER / "merge.portable.yaml").read_text())
    toy = load_recipe(FOLDER / "recipe.yaml")
    assert plan["merge_method"] == "task_arithmetic"
    assert ROOT / plan["base_model"] == toy.resolve(str(toy.base_model.path))
    weights = {entry["model"]: entry["parameters"]["weight"] for entry in plan["models"]}
    it, pt = "runs/chat_vector_it/checkpoints/it", "recipes/demo/data/base"
    assert weights == {it: weights[it], pt: -weights[it]}
    readme = (FOLDER / "README.md").read_text()
    assert f"w = {weights[it]:.4f}" in readme
    assert readme.count(str(weights[it])) == 2
