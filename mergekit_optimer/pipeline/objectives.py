"""Several studies over one pool side by side: objective, the weights it chose, what they score on the held-out set.

Reported for OptiMer (arXiv 2603.28858): one pool serves many objectives, with a search each and no training.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mergekit_optimer.compare import BASE, WINNER
from mergekit_optimer.errors import OptimerError, RunFolderError
from mergekit_optimer.files import content_hash, read_json, write_csv, write_json
from mergekit_optimer.pipeline.held_out import compare_held_out
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.pins import read_pins
from mergekit_optimer.pipeline.reporting import write_card, write_report
from mergekit_optimer.recipe import Objective, load_recipe
from mergekit_optimer.runs import RunDir, enter_run, read_run
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.search import describe


def compare_objectives(run_dirs: Sequence[Path], out_dir: Path | None, device: Callable[[], str]) -> Path:
    """Put searched runs over one pool into one table: analysis/objectives.json and .csv.

    A run whose winner has no held-out scores yet is compared first, as the verb ``compare`` does.

    Args:
        out_dir: The run folder it is written into; None: the first run's.
        device: Asked where models run, once a run is to be scored.

    Returns:
        The path of objectives.json.

    Raises:
        RunFolderError: A run is not searched, or has no scores and its recipe is not where it was; or two differ in
            base, pool or samples, which it names.
    """
    runs = {run.root: run for run in map(enter_run, run_dirs)}
    if len(runs) < 2:
        raise RunFolderError(
            "A table of objectives needs two runs or more; "
            "`mergekit-optimer search RECIPE --objective '{mean: [ja]}' --from RUN` makes another."
        )
    first, *others = runs.values()
    for run in runs.values():
        if not run.winner_path.exists():
            raise RunFolderError(f"{run.root} has no {run.winner_path.name}; run `{_command('search', run)}` first.")
    for run in others:
        _check_same_search(first, run)
    for run in runs.values():
        if not _is_scored(run):
            _score(run, device())
    for run in others:
        _check_same_held_out(first, run)
    rows = [_row(run, name) for run, name in zip(runs.values(), _names(list(runs)), strict=True)]
    base = _held_out(first, BASE)
    data = {
        "rows": rows,
        "tasks": {task: _metric(one) for task, one in sorted(base.items())},
        "base_model": {task: _shown_score(one) for task, one in sorted(base.items())},
    }
    path = (RunDir(out_dir.resolve()) if out_dir is not None else first).analysis_path("objectives")
    write_json(path, data)
    write_csv(path.with_suffix(".csv"), *_table(data))
    return path


def _is_scored(run: RunDir) -> bool:
    """Whether the winner that the run has now has its held-out scores, and the base model too."""
    if not run.held_out_path.exists():
        return False
    winner, models = read_json(run.winner_path), read_json(run.held_out_path)["models"]
    wanted = content_hash([winner["scored_with"]["pool"], winner["winner"]["weights"], None])
    return BASE in models and bool(models.get(WINNER, {}).get("inputs") == wanted)


def _score(run: RunDir, device: str) -> None:
    """Compare a run with what it was made from, its recipe where the run's own command has it.

    Raises:
        RunFolderError: The recipe is not there, or is not the run's.
    """
    try:
        recipe = load_recipe(_recipe_path(run), tuple(run.manifest().get("overrides", ())))
        job = Job(read_pins(recipe, read_run(run.root, recipe)), run, device)
    except OptimerError as error:
        raise RunFolderError(
            f"{run.root} has no held-out scores of its winner, and no recipe of it is at {_recipe_path(run)}, seen "
            f"from here; run `{_command('compare', run)}` first."
        ) from error
    with run.locked():
        compare_held_out(job)
        write_report(job)
        write_card(job)


def _recipe_path(run: RunDir) -> Path:
    """The recipe as the command that made the run named it: seen from where it was called."""
    words = shlex.split(run.manifest()["command"])
    return Path(words[2] if len(words) > 2 else "recipe.yaml")


def _command(verb: str, run: RunDir) -> str:
    """The command that makes what is missing, with what the run was searched for."""
    objective = run.manifest()["recipe"]["search"]["objective"]
    asked = json.dumps({key: value for key, value in objective.items() if value}, ensure_ascii=False)
    setting = shlex.quote(f"search.objective={asked}")
    return f"mergekit-optimer {verb} RECIPE --set {setting} --run-dir {shlex.quote(str(run.root))}"


def _check_same_search(first: RunDir, run: RunDir) -> None:
    mine, theirs = (read_json(one.winner_path)["scored_with"] for one in (first, run))
    differing = ["the base model"] if mine["base"] != theirs["base"] else []
    for key, what in (("pool", "vector"), ("samples", "the dev samples of")):
        names = sorted(mine[key].keys() | theirs[key].keys())
        differing += [f"{what} '{name}'" for name in names if mine[key].get(name) != theirs[key].get(name)]
    _refuse(first, run, differing)


def _check_same_held_out(first: RunDir, run: RunDir) -> None:
    if read_json(first.held_out_path)["identity"] != read_json(run.held_out_path)["identity"]:
        _refuse(first, run, ["the held-out samples"])


def _refuse(first: RunDir, run: RunDir, differing: list[str]) -> None:
    if differing:
        raise RunFolderError(
            f"{first.root} and {run.root} differ in {', '.join(differing)}, so their rows do not compare; put runs of "
            "one pool and one set of samples into a table."
        )


def _names(roots: list[Path]) -> list[str]:
    """The folders' own names, with the folder above where two are called the same."""
    names = [root.name for root in roots]
    return [root.name if names.count(root.name) == 1 else f"{root.parent.name}/{root.name}" for root in roots]


def _row(run: RunDir, name: str) -> dict[str, Any]:
    summary = read_json(run.winner_path)
    objective = Objective.model_validate(run.manifest()["recipe"]["search"]["objective"])
    return {
        "name": name,
        "objective": describe(objective),
        "objective_tasks": sorted(objective.task_weights),
        "weights": summary["winner"]["weights"],
        "dev": summary["winner"]["value"],
        "held_out": {task: _shown_score(one) for task, one in sorted(_held_out(run, WINNER).items())},
        "n_adopted": summary["n_adopted"],
        "n_run": summary["n_run"],
    }


def _held_out(run: RunDir, model: str) -> dict[str, TaskScores]:
    tasks = read_json(run.held_out_path)["models"][model]["tasks"]
    return {task: TaskScores.from_json(data) for task, data in tasks.items()}


def _shown_score(task: TaskScores) -> dict[str, Any]:
    score = task.score
    return {"value": score.value, "stderr": score.stderr, "n": score.n}


def _metric(task: TaskScores) -> dict[str, Any]:
    return {"metric": task.primary, "higher_is_better": task.metrics[task.primary].higher_is_better}


def _table(data: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    tasks, vectors = list(data["tasks"]), sorted(data["rows"][0]["weights"])
    header = ["run", "objective", *(f"weight {vector}" for vector in vectors), "dev"]
    header += [f"{task} {part}" for task in tasks for part in ("value", "stderr", "n")]
    rows = [
        [row["name"], row["objective"], *(row["weights"][vector] for vector in vectors), row["dev"]]
        + [row["held_out"][task][part] for task in tasks for part in ("value", "stderr", "n")]
        for row in data["rows"]
    ]
    return [*header, "n_adopted", "n_run"], [
        [*cells, row["n_adopted"], row["n_run"]] for cells, row in zip(rows, data["rows"], strict=True)
    ]
