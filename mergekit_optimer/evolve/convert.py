"""A mergekit-evolve genome -> recipe.yaml, with everything that has no counterpart named. Opens no model."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mergekit_optimer.errors import RecipeError
from mergekit_optimer.evolve.genome import read_genome
from mergekit_optimer.evolve.tasks import COUNTERPARTS
from mergekit_optimer.evolve.unlike import differences
from mergekit_optimer.files import write_text
from mergekit_optimer.recipe import REPO, is_name, load_recipe

# The weights' upper bound where nothing is said; a genome's own are unbounded, and begin at 1/K.
_HIGH = 1.25
_LOW = -0.5
_TO_FILL = {
    "base_model": "base_model: {repo: owner/name}   # the model that all of these were trained from",
    "tasks": "tasks: {name: {kind: text, path: dev.jsonl}}   # what the search maximises",
    "search.objective": "search: {objective: {mean: [name]}}   # of the tasks above",
    "search": "search: {objective: {mean: [name]}}   # of the tasks above",
    "held_out": "held_out: {name: {kind: text, path: held_out.jsonl}}   # samples that no trial sees",
    "vectors": "vectors: {name: {checkpoint: {repo: owner/name}}}",
}


@dataclass(frozen=True)
class ImportedRecipe:
    """A recipe made from a genome.

    Attributes:
        text: recipe.yaml.
        unlike: What of the genome has no counterpart or is done in another way, a sentence each.
        to_fill: What the user must still write before the recipe loads, a problem each; empty where it loads.
    """

    text: str
    unlike: tuple[str, ...]
    to_fill: tuple[str, ...]


def import_genome(path: Path, out_dir: Path, held_out: Sequence[str] = ()) -> ImportedRecipe:
    """Turn a genome file into a recipe.

    Args:
        out_dir: Folder that the recipe will lie in; paths of local models are written relative to it.
        held_out: lm-eval tasks for the held-out set, which a genome does not have.

    Raises:
        RecipeError: The genome is wrong, or a held-out task is unknown or also searched on.
    """
    genome = read_genome(path)
    config, definition = genome.config, genome.config.genome
    unlike = [f"{key}: mergekit-evolve has no such key and never read it" for key in genome.unknown]
    vectors, of_models = _vectors(definition, out_dir)
    tasks, weights, of_tasks = _tasks(config)
    # A name with a line break in it would end its comment and become a key of the recipe.
    unlike = [" ".join(one.split()) for one in [*unlike, *of_models, *of_tasks, *differences(config)]]
    search: dict[str, Any] = {
        "weights": {"low": _LOW if definition.allow_negative_weights else 0.0, "high": _HIGH},
    }
    if config.limit is not None:
        search["rungs"] = [{"n_samples": config.limit}]
    if weights:
        same = len(set(weights.values())) == 1 and min(weights.values()) > 0
        search["objective"] = {"mean": sorted(weights)} if same else {"weighted": weights}
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:64]
    recipe: dict[str, Any] = {"name": stem if is_name(stem) else "evolved"}
    if definition.base_model is not None:
        recipe["base_model"] = _source(definition.base_model.model, out_dir)
    recipe |= {"vectors": vectors, "search": search, "tasks": tasks}
    if held_out:
        recipe["held_out"] = _held_out(held_out, tasks, config.num_fewshot)
    recipe = {key: value for key, value in recipe.items() if value}
    body = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    missing = _problems(body)
    lines = [f"# From the mergekit-evolve genome {' '.join(path.name.split())}."]
    if unlike:
        lines += ["# Without a counterpart, or done in another way:", *(f"#   {one}" for one in unlike)]
    end = []
    if missing:
        keys = dict.fromkeys(problem.partition(":")[0] for problem in missing)
        end = ["# To be written before this is a recipe:", *(f"#   {_TO_FILL.get(key, key)}" for key in keys)]
    text = "\n".join([*lines, body.rstrip("\n"), *end]) + "\n"
    return ImportedRecipe(text, tuple(unlike), tuple(missing))


def _vectors(definition: Any, out_dir: Path) -> tuple[dict[str, Any], list[str]]:
    """One vector per model, by the last part of its name; the base itself is none."""
    vectors: dict[str, Any] = {}
    unlike = []
    base = definition.base_model
    for model in definition.models:
        if model == base:
            unlike.append(f"genome.models: {model} is the base model, whose difference from itself is no vector")
            continue
        source: dict[str, Any] = {"checkpoint": _source(model.model, out_dir)}
        if model.lora is not None:
            if base is None or model.model != base.model:
                unlike.append(
                    f"genome.models: {model} is an adapter over a model that is not the base; its vector is not taken "
                    "over: merge the adapter into that model and name the folder"
                )
                continue
            source = {"adapter": _source(model.lora, out_dir)}
        if model.override_architecture:
            unlike.append(f"genome.models: override_architecture of {model} is not taken over")
        vectors[_free_name((model.lora or model.model).path, vectors)] = source
    return vectors, unlike


def _tasks(config: Any) -> tuple[dict[str, Any], dict[str, float], list[str]]:
    """lm-eval tasks as lighteval tasks, with their weights in the objective, and what could not be."""
    tasks: dict[str, Any] = {}
    weights: dict[str, float] = {}
    unlike = []
    for task in config.tasks:
        metric, _, which = task.metric.partition(",")
        found = COUNTERPARTS.get(task.name)
        if found is None or metric not in found.metrics:
            why = f"no metric {metric} of it" if found else "no such task"
            unlike.append(
                f"tasks.{task.name}: lighteval has {why}, so weight {task.weight:g} of the objective is gone; write it "
                "as kind: text, choice, generate, or lighteval with a file"
            )
            continue
        ours = found.metrics[metric]
        if ours != metric:
            unlike.append(f"tasks.{task.name}: {metric} becomes {ours}, which is what lighteval has for {found.task}")
        if which not in ("", "none"):
            unlike.append(f"tasks.{task.name}: the filter {which} is not taken over")
        name = _free_name(task.name, tasks)
        tasks[name] = _lighteval(found.task, ours, config.num_fewshot)
        weights[name] = task.weight
    return tasks, weights, unlike


def _held_out(names: Sequence[str], dev: dict[str, Any], n_shots: int | None) -> dict[str, Any]:
    known = {name: COUNTERPARTS.get(name) for name in names}
    strange = [name for name, found in known.items() if found is None]
    if strange:
        problems = [f"lighteval has no counterpart of the lm-eval task {name}{_near(name)}" for name in strange]
        raise RecipeError("--held-out", problems)
    made = {}
    for name, found in known.items():
        assert found is not None
        made[name] = _lighteval(found.task, next(iter(found.metrics.values())), n_shots)
    searched = {task["task"] for task in dev.values()}
    both = [name for name, task in made.items() if task["task"] in searched]
    if both:
        problems = [f"{name} is searched on; held-out samples are those that no trial saw" for name in both]
        raise RecipeError("--held-out", problems)
    return made


def _near(task: str) -> str:
    near = difflib.get_close_matches(task, COUNTERPARTS, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _lighteval(task: str, metric: str, n_shots: int | None) -> dict[str, Any]:
    return {"kind": "lighteval", "task": f"{task}|{n_shots or 0}", "metric": metric}


def _source(place: Any, out_dir: Path) -> dict[str, str]:
    """A model of the genome as the recipe names it: a folder that is there, else a repository."""
    folder = Path(place.path)
    if folder.exists() or not REPO.fullmatch(place.path):
        shown = place.path if folder.is_absolute() else os.path.relpath(folder, out_dir)
        return {"path": shown}
    return {"repo": place.path} | ({"revision": place.revision} if place.revision else {})


def _free_name(text: str, taken: dict[str, Any]) -> str:
    """A name in a recipe from a path or a task, told apart from those that are taken, also where case is none."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text.rstrip("/").rpartition("/")[2])[:60].strip("-._") or "vector"
    lower = {one.casefold() for one in taken}
    number = 2
    free = name
    while free.casefold() in lower:
        free, number = f"{name}-{number}", number + 1
    return free


def _problems(text: str) -> list[str]:
    """What stands between a text and a recipe."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "recipe.yaml"
        write_text(path, text)
        try:
            load_recipe(path)
        except RecipeError as error:
            return error.problems
    return []
