"""Run folder -> report/index.html, its figures, and report.json of a run that is not finished, which is a part of it.

Nothing but the run folder is read: no recipe file, no model; of runs beside it only whether they have gone on.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mergekit_optimer.cards import without_secrets
from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.files import content_hash, named_here, read_json, write_json, write_text
from mergekit_optimer.page import PageData, page_gaps, read_analyses, render_page
from mergekit_optimer.pipeline.current import current_analyses
from mergekit_optimer.pipeline.missing import missing_commands
from mergekit_optimer.pipeline.trial_facts import base_value, trial_facts
from mergekit_optimer.recipe import SearchSection
from mergekit_optimer.report import ReportData, relative_gains
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search import TrialRecord, describe, warm_start_weights

_NO_REPORT = {"finished": False}
_GONE_ON = "The run has gone on since it was compared: its held-out scores are not those of its winner."


def write_page(run: RunDir) -> Path:
    """Render what the run holds into report/index.html, with CSV and SVG of each figure under report/figures/.

    Of a run that is not finished, or has gone on since, report.json is written too: what is there, and what is missing.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: A file of the run is damaged.
    """
    data = read_page_data(run)
    page = render_page(data)
    for suffix, files in ((".csv", page.csvs), (".svg", page.svgs)):
        for name, text in files.items():
            write_text(run.figure_path.parent / f"{name}{suffix}", text)
    if data.report is None:
        write_json(run.report_path, _unfinished(data, current_analyses(run)[0]))
    write_text(run.page_path, page.html)
    return run.page_path


def missing_parts(run: RunDir) -> dict[str, str]:
    """What the page has nothing of, in words, and the command that makes it, with the run's place on this machine."""
    data = read_page_data(run)
    place = named_here(run.root) or str(run.root)
    missing = missing_commands(run.manifest(), data.weights, _n_run(run), place)
    return {gap.title: gap.command for gap in page_gaps(replace(data, commands=missing.commands))}


def read_report(run: RunDir) -> ReportData | None:
    """Return the run's report with the analyses that were made since, and keep it; None where the run has none.

    A report is the run's while it is of the winner that the run has now.
    """
    if _report(run)[0] is None:
        return None
    report = ReportData.from_json(read_json(run.report_path))
    report = replace(report, analysis=read_analysis_files(run), relative_gains=relative_gains(report))
    write_json(run.report_path, report.to_json())
    return report


def read_page_data(run: RunDir) -> PageData:
    """Gather what the page is made of, without a path or token of this machine."""
    manifest = run.manifest()
    spec = SearchSection.model_validate(manifest["recipe"]["search"])
    summary = read_json(run.winner_path) if run.winner_path.exists() else None
    records = _records(run, summary)
    winner = summary["winner"] if summary else {"number": None, "weights": {}}
    report, note = _report(run)
    analyses, left_out = current_analyses(run)
    missing = missing_commands(manifest, winner["weights"], _n_run(run), named_here(run.root) or run.root.name)
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
        commands=without_secrets(missing.commands),
        reasons=missing.reasons,
        note=" ".join(said for said in (note, left_out) if said),
    )


def read_analysis_files(run: RunDir) -> dict[str, Any]:
    """What each analysis holds that was made and is of what the run holds now, by its name."""
    return current_analyses(run)[0]


def is_compared(run: RunDir) -> bool:
    """Whether the held-out scores are there, of the winner that the run has now and of every baseline."""
    if not (run.winner_path.exists() and run.held_out_path.exists()):
        return False
    summary, models = read_json(run.winner_path), read_json(run.held_out_path)["models"]
    weights = summary["winner"]["weights"]
    wanted = {"winner", "base_model", *warm_start_weights(sorted(weights), ["singles", "uniform_average", "sum"])}
    if len(weights) > 1:
        wanted |= {"ties", "dare_linear"}
    return wanted <= models.keys() and bool(models["winner"]["inputs"] == _winner_inputs(summary))


def _records(run: RunDir, summary: dict[str, Any] | None) -> list[TrialRecord]:
    """The trials of the finished study, or those that are scored so far."""
    if summary is not None:
        paths = [run.trial_dir(number) / "scores.json" for number in summary["trials"]]
    else:
        paths = sorted(run.root.glob("trials/*/scores.json"))
    return sorted((TrialRecord.from_json(read_json(path)) for path in paths), key=lambda record: record.number)


def _report(run: RunDir) -> tuple[ReportData | None, str]:
    """The report where it is of the winner that the run has now, and what is to be said of a run that has gone on."""
    content = read_json(run.report_path) if run.report_path.exists() else _NO_REPORT
    try:
        report = ReportData.from_json(without_secrets(content)) if content.get("finished", True) else None
    except ValidationError as error:
        raise RunFolderError(
            f"{run.report_path} is damaged ({error.errors()[0]['msg']}); delete it, then `mergekit-optimer report "
            "RECIPE` writes it anew."
        ) from error
    if not is_compared(run):
        return None, _GONE_ON if _has_scores_of_another_winner(run) else ""
    summary = read_json(run.winner_path)
    if report is None or {vector.name: vector.weight for vector in report.vectors} != summary["winner"]["weights"]:
        return None, ""
    # A report of before trials were kept cannot tell.
    if report.trials and len(report.trials) != len(summary["trials"]):
        return report, (
            f"The search has gone on since this report was made, from {len(report.trials)} to {len(summary['trials'])} "
            "trials, and has the same winner; `mergekit-optimer report RECIPE` makes it anew."
        )
    return report, ""


def _has_scores_of_another_winner(run: RunDir) -> bool:
    """Whether the held-out scores are of a winner that the run had before."""
    if not (run.winner_path.exists() and run.held_out_path.exists()):
        return False
    scored = read_json(run.held_out_path)["models"].get("winner")
    return scored is not None and scored["inputs"] != _winner_inputs(read_json(run.winner_path))


def _winner_inputs(summary: dict[str, Any]) -> str:
    """What the winner's held-out scores stand on, as they have it."""
    return content_hash([summary.get("scored_with", {}).get("pool"), summary["winner"]["weights"], None])


def _n_run(run: RunDir) -> int | None:
    """Trials that the study ran itself; None while there is no winner."""
    n_run: int | None = read_json(run.winner_path).get("n_run") if run.winner_path.exists() else None
    return n_run


def _unfinished(data: PageData, analysis: dict[str, Any]) -> dict[str, Any]:
    """What report.json holds of a run that has no comparison of its winner: the page's numbers, and what is missing."""
    winner = None if data.winner is None else {"number": data.winner, "weights": data.weights}
    return {
        "finished": False,
        "name": data.name,
        "note": data.note,
        "objective": data.objective,
        "n_samples": data.n_samples,
        "base_value": data.base_value,
        "winner": winner,
        "trials": [asdict(trial) for trial in data.trials],
        "stages": data.stages,
        "analysis": without_secrets(analysis),
        "missing": {gap.title: gap.command for gap in page_gaps(data)},
    }
