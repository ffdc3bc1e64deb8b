"""The house: imports go one way, nothing heavy loads early, every module can be read, and the wheel is whole."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mergekit_optimer"
# Imports only go up this list: a module may use those above it.
LAYERS = [
    "errors", "machine", "resources", "files", "recipe", "runs", "scores", "hub", "corpora", "vectors", "kernel",
    "method", "train", "merge", "resident", "tasks", "evaluate", "search", "workers", "compare", "analysis", "mixture",
    "evolve", "report", "plots", "cards", "page", "pipeline", "cli",
]  # fmt: skip
HEAVY = {"torch", "transformers", "trl", "datasets", "lighteval", "mergekit", "optuna", "accelerate", "pyarrow", "peft",
         "matplotlib", "ray", "sqlalchemy", "psycopg"}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(tree: ast.AST) -> list[tuple[str, ast.stmt]]:
    """Every import of a module, those inside functions too."""
    found: list[tuple[str, ast.stmt]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "mergekit_optimer":
                found += [(f"mergekit_optimer.{alias.name}", node) for alias in node.names]
            else:
                found.append((node.module, node))
    return found


def test_every_module_has_its_layer() -> None:
    assert {layer(path) for path in MODULES} - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_up_the_list(path: Path) -> None:
    mine = layer(path)
    for name, _ in imported(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "mergekit_optimer" and len(parts) > 1 and parts[1] in LAYERS and parts[1] != mine:
            assert mine != "__init__", f"the package itself imports {name}"
            assert LAYERS.index(parts[1]) < LAYERS.index(mine), f"{mine} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_load_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    in_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for name, node in imported(tree):
        if name.split(".")[0] in HEAVY:
            lazy = id(node) in in_functions or id(node) in typing_only
            assert lazy or path.name in LATE_MODULES, f"{name} loads at import"


# Loaded by functions only, never by an __init__: their classes derive from heavy ones.
LATE_MODULES: set[str] = {"live_model.py", "loglikelihood.py", "lighteval_compat.py", "lighteval_tasks.py", "cpt.py"}


def test_importing_package_and_command_line_loads_nothing_heavy_and_registers_nothing() -> None:
    code = "import sys, mergekit_optimer.cli; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(ast.literal_eval(loaded))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_for_and_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 350


def test_commands_in_the_readme_exist() -> None:
    from mergekit_optimer.cli import cli

    readme = (ROOT / "README.md").read_text()
    verbs = set(re.findall(r"mergekit-optimer ([a-z][a-z-]+)", readme))
    assert verbs <= set(cli.commands)
    assert {name for name in cli.commands if f"`{name}`" not in readme} == set()
    targets = set(re.findall(r"^    make ([a-z]+)", readme, re.M))
    assert {"install", "demo", "test"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_the_recipe_in_the_readme_is_a_recipe(tmp_path: Path) -> None:
    from mergekit_optimer.recipe import load_recipe

    section = (ROOT / "README.md").read_text().partition("## Recipe")[2].partition("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    assert load_recipe(tmp_path / "recipe.yaml").name == "my-study"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*/recipe.yaml")), ids=lambda path: path.parent.name)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    from mergekit_optimer.recipe import load_recipe

    assert load_recipe(path).name == path.parent.name


def test_every_command_has_an_example_in_its_help() -> None:
    from mergekit_optimer.cli import cli

    for name, command in cli.commands.items():
        text = command.help or ""
        assert "Example" in text or name == "vectors", name


def test_the_constraints_pin_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").open()}
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.split(r"[><=\[ ]", line)[0].lower().replace("_", "-") for line in wanted}
    assert names - {project["name"]} <= pinned


def test_what_is_tested_includes_every_extra() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (own,) = [line for line in extras["dev"] if line.startswith("mergekit-optimer[")]
    assert set(own.removeprefix("mergekit-optimer[").removesuffix("]").split(",")) == set(extras) - {"dev"}


def test_a_wheel_holds_templates_and_recipes_and_finds_them(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    ignore = shutil.ignore_patterns(".venv", ".git", "runs", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, tree, ignore=ignore)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(tree)]
    subprocess.run(command, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "mergekit_optimer/hub_cards/merged_model.md.jinja" in names
    assert "mergekit_optimer/recipes/demo/data/base/model.safetensors" in names
    assert "mergekit_optimer/py.typed" in names
    assert "mergekit_optimer/page/templates/page.html.jinja" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "from mergekit_optimer.resources import *; print(hub_cards_dir()); print(recipes_dir())"
    found = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=True, cwd=tmp_path,
    ).stdout.split()  # fmt: skip
    assert found == [str(tmp_path / "site/mergekit_optimer" / name) for name in ("hub_cards", "recipes")]
