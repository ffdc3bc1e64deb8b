"""Run folder -> report/index.html and the CSVs of its figures, for a run that is finished and for one that is not.

Nothing but the run folder is read: no recipe file, no model.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mergekit_optimer.cards import without_secrets
from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.files import content_hash, read_json, write_json, write_text
from mergekit_optimer.page import ANALYSES, PageData, page_gaps, read_analyses, render_page
from mergekit_optimer.pipeline.trial_facts import base_value, trial_facts
from mergekit_optimer.recipe import SearchSection
from mergekit_optimer.report import ReportData
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search import TrialRecord, describe, warm_start_weights


def write_page(run: RunDir) -> Path:
    """Render what the run holds into report/index.html, with the CSV of each figure under report/figures/.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: A file of the run is damaged.
    """
    page = render_page(read_page_data(run))
    for name, text in page.csvs.items():
        write_text(run.figure_path.parent / f"{name}.csv", text)
    write_text(run.page_path, page.html)
    return run.page_path


def missing_parts(run: RunDir) -> dict[str, str]:
    """What the page has nothing of, in words, and the command that makes it, with the run's place on this machine."""
    data = read_page_data(run)
    commands = _commands(run.manifest(), data.weights, str(run.root))
    return {gap.title: gap.command for gap in page_gaps(replace(data, commands=commands))}


def read_report(run: RunDir) -> ReportData | None:
    """Return the run's report with the analyses that were made since, and keep it; None where the run has none.

    A report is the run's while it is of the winner that the run has now.
    """
    report, _ = _report(run)
    if report is not None:
        data = read_json(run.report_path) | {"analysis": read_analysis_files(run)}
        write_json(run.report_path, data)
        report = replace(report, analysis=data["analysis"])
    return report


def read_page_data(run: RunDir) -> PageData:
    """Gather what the page is made of, without a path or token of this machine."""
    manifest = run.manifest()
    spec = SearchSection.model_validate(manifest["recipe"]["search"])
    summary = read_json(run.winner_path) if run.winner_path.exists() else None
    records = _records(run, summary)
    winner = summary["winner"] if summary else {"number": None, "weights": {}}
    report, note = _report(run)
    analyses, left_out = _analyses(run, winner["weights"])
    notes = [note] if note else []
    if left_out:
        notes.append(f"Of an earlier winner, and so not shown: {', '.join(left_out)}.")
    first = spec.rungs[0].n_samples
    return PageData(
        name=manifest["recipe"]["name"],
        report=report,
        trials=tuple(trial_facts(spec, records)),
        objective=describe(spec.objective),
        n_samples=first,
        base_value=base_value(spec, records),
        winner=winner["number"],
        weights=winner["weights"],
        analyses=read_analyses(without_secrets(analyses)),
        stages={name: stage["elapsed_s"] for name, stage in manifest["stages"].items() if stage["inputs"]},
        commands=without_secrets(_commands(manifest, winner["weights"], _shown(run.root))),
        note=" ".join(notes),
    )


def read_analysis_files(run: RunDir) -> dict[str, Any]:
    """What each analysis that was made holds, by its name."""
    paths = {name: run.analysis_path(name) for name in ANALYSES}
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def is_compared(run: RunDir) -> bool:
    """Whether the held-out scores are there, of the winner that the run has now and of every baseline."""
    if not (run.winner_path.exists() and run.held_out_path.exists()):
        return False
    summary, models = read_json(run.winner_path), read_json(run.held_out_path)["models"]
    weights = summary["winner"]["weights"]
    wanted = {"winner", "base_model", *warm_start_weights(sorted(weights), ["singles", "uniform_average", "sum"])}
    if len(weights) > 1:
        wanted |= {"ties", "dare_linear"}
    current = content_hash([summary.get("scored_with", {}).get("pool"), weights, None])
    return wanted <= models.keys() and bool(models["winner"]["inputs"] == current)


def _records(run: RunDir, summary: dict[str, Any] | None) -> list[TrialRecord]:
    """The trials of the finished study, or those that are scored so far."""
    if summary is not None:
        paths = [run.trial_dir(number) / "scores.json" for number in summary["trials"]]
    else:
        paths = sorted(run.root.glob("trials/*/scores.json"))
    return sorted((TrialRecord.from_json(read_json(path)) for path in paths), key=lambda record: record.number)


def _report(run: RunDir) -> tuple[ReportData | None, str]:
    """The report where it is of the winner that the run has now, and what is to be said where it is not."""
    if not run.report_path.exists():
        return None, ""
    try:
        report = ReportData.from_json(without_secrets(read_json(run.report_path)))
    except ValidationError as error:
        raise RunFolderError(
            f"{run.report_path} is damaged ({error.errors()[0]['msg']}); delete it, then `mergekit-optimer report "
            "RECIPE` writes it anew."
        ) from error
    weights = {vector.name: vector.weight for vector in report.vectors}
    if not is_compared(run) or weights != read_json(run.winner_path)["winner"]["weights"]:
        return None, "The run has gone on since it was compared: its held-out scores are not those of its winner."
    return report, ""


def _analyses(run: RunDir, winner: dict[str, float]) -> tuple[dict[str, Any], list[str]]:
    """The analyses that are of this winner, and the names of those of another."""
    found = read_analysis_files(run)
    weights: dict[str, Callable[[Any], Any]] = {
        "landscape": lambda data: data.get("winner"),
        "attribution": lambda data: {name: one.get("weight") for name, one in data.get("vectors", {}).items()},
        "mixture": lambda data: data.get("weights", winner),
    }
    old = [name for name, of in weights.items() if name in found and of(found[name]) != winner]
    return {name: data for name, data in found.items() if name not in old}, old


def _commands(manifest: dict[str, Any], weights: dict[str, float], root: str) -> dict[str, str]:
    """Section -> the command that makes it, for a run that lies at ``root``, as it was called."""
    words = shlex.split(manifest["command"])
    # mergekit-optimer VERB RECIPE, then options; --from was for the beginning only.
    recipe = words[2] if len(words) > 2 else "recipe.yaml"
    options = list(words[3:])
    if "--from" in options:
        at = options.index("--from")
        del options[at : at + 2]
    if _shown(Path(root)) != f"runs/{manifest['recipe']['name']}":
        options += ["--run-dir", root]

    def command(*verb: str, more: tuple[str, ...] = ()) -> str:
        return shlex.join(["mergekit-optimer", *verb, recipe, *more, *options])

    ranked = sorted(weights, key=lambda name: (-abs(weights[name]), name))[:2]
    task = sorted(manifest["recipe"]["tasks"])[0]
    other = f"runs/{manifest['recipe']['name']}-for-{task}"
    again = shlex.join(["mergekit-optimer", "search", recipe, "--objective", f"{{mean: [{task}]}}", "--from", root])
    compared = shlex.join(["mergekit-optimer", "compare", recipe, "--set", f"search.objective={{mean: [{task}]}}",
                           "--run-dir", other])  # fmt: skip
    if not weights:
        # Nothing else can be made before there is a winner.
        return {"search": command("run"), "geometry": command("vectors", "show", more=("--figures",))}
    return {
        "compare": command("compare"),
        "geometry": command("vectors", "show", more=("--figures",)),
        "trajectory": shlex.join(["mergekit-optimer", "run", recipe, "--set", "train.keep_checkpoints=8", "--run-dir",
                                  f"{root}-kept"]),
        "landscape": command("search", more=("--slice", ",".join(ranked))),
        "attribution": command("compare", more=("--attribution",)),
        "objectives": "\n".join([again, compared, shlex.join(["mergekit-optimer", "objectives", root, other])]),
        "mixture": command("mixture"),
        "cost": command("cost"),
    }  # fmt: skip


def _shown(path: Path) -> str:
    """A path as a command here would name it, without the folders above."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path.name
