"""Run folder -> report.json, the page, the figure of the search and the card. Measures nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

from mergekit_optimer.cards import render_model_card
from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.files import read_json, write_bytes, write_json, write_text
from mergekit_optimer.merge import merge_yaml, portable_yaml
from mergekit_optimer.pipeline.held_out import held_out_scores
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.paging import is_compared, read_analysis_files, write_page
from mergekit_optimer.pipeline.trial_facts import base_value, trial_facts
from mergekit_optimer.plots import search_figure
from mergekit_optimer.recipe import DATA_MIXTURE, OPTIMISED_MIXTURE, LightevalTask, Source, TaskSpec
from mergekit_optimer.report import (
    BaseModelFacts,
    GradientFacts,
    ReportData,
    RungFacts,
    SearchFacts,
    VectorFacts,
    build_report,
)
from mergekit_optimer.runs import package_versions
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.search import WARM_START, TrialRecord, describe, warm_start_weights

# The options that each sampler is given.
_OPTIONS = {"tpe": {"assist", "multivariate", "constant_liar", "n_startup_trials"}, "gp": {"n_startup_trials"}}


def write_report(job: Job) -> ReportData:
    """Gather the run's numbers into report/report.json, and show them: report/index.html and report/figures/.

    Raises:
        RunFolderError: The held-out scores are not those of the winner that the run has now, or not of every baseline.
    """
    if not is_compared(job.run):
        raise RunFolderError(
            f"{job.run.root} is not compared, or has gone on since; run `mergekit-optimer compare` again first."
        )
    summary, manifest = read_json(job.run.winner_path), job.run.manifest()
    records = [TrialRecord.from_json(read_json(job.run.trial_dir(n) / "scores.json")) for n in summary["trials"]]
    winner = next(record for record in records if record.number == summary["winner"]["number"])
    recipe, publish, base = job.recipe, job.recipe.publish, str(job.base.path)

    def label(path: str) -> str:
        return job.labels[path]

    report = build_report(
        name=recipe.name,
        seed=recipe.seed,
        recipe_hash=manifest["recipe_hash"],
        versions=package_versions(),
        device=manifest["device"],
        dtype=job.dtype,
        base=BaseModelFacts(job.base.label, job.base.repo, job.base.revision, job.base_fingerprint),
        vectors=[_vector_facts(job, name, winner.weights[name]) for name in job.pool.names],
        search=_search_facts(job, summary, winner, records),
        dev=_dev_scores(records, winner),
        held_out=held_out_scores(job),
        timings=_timings(job, summary),
        yaml=merge_yaml(base, job.ingredients, winner.weights, job.dtype, label),
        portable_yaml=portable_yaml(base, job.ingredients, winner.weights, job.dtype, label),
        portable_reason=None,
        command=_command(job),
        license=publish.license,
        language=publish.language,
        repo=publish.repo,
        private=publish.private,
        model_dir=job.run.model_dir.relative_to(job.run.root).as_posix(),
        card_path=job.run.card_path.relative_to(job.run.root).as_posix(),
        trials=trial_facts(recipe.search, records),
        analysis=read_analysis_files(job.run),
        lighteval_tasks={name: task.task for name, task in recipe.held_out.items() if _is_stock(task)},
    )
    write_json(job.run.report_path, report.to_json())
    search_figure(report, job.run.figure_path)
    write_page(job.run)
    return report


def _command(job: Job) -> str:
    """The command that makes the run again: the one that took trials over, where there is one."""
    source = job.run.adopted_path if job.run.adopted_path.exists() else job.run.manifest_path
    return str(read_json(source)["command"])


def write_card(job: Job) -> Path:
    """Render the model card from report.json, into card/ and beside the merged model, each with its figure.

    Raises:
        RunFolderError: There is no merged model for it.
    """
    report = ReportData.from_json(read_json(job.run.report_path))
    if not job.run.model_dir.exists():
        raise RunFolderError(f"{job.run.root} holds no merged model; `mergekit-optimer search` makes it.")
    write_text(job.run.card_path, render_model_card(report))
    search_figure(report, job.run.figure_path)
    for folder in (job.run.card_path.parent, job.run.model_dir):
        write_bytes(folder / job.run.figure_path.name, job.run.figure_path.read_bytes())
    write_text(job.run.model_dir / "README.md", job.run.card_path.read_text(encoding="utf-8"))
    return job.run.card_path


def _vector_facts(job: Job, name: str, weight: float) -> VectorFacts:
    vector, spec = job.pool.vectors[name], job.recipe.pool[name]
    place = job.vector(name)
    # The vector itself where others can have it: it is what the merge adds.
    source = place if place.repo is not None else job.source(name)
    training = vector.training or {}
    own_base = job.own_base(spec)
    label, repo, revision = vector.dataset, vector.dataset_repo, vector.dataset_revision
    if spec.dataset is not None and job.recipe.train is not None:
        data: Source = job.recipe.train.datasets[spec.dataset]
        label, repo, revision = str(data), data.repo, data.revision
    return VectorFacts(
        name=name,
        label=job.labels[str(source.path)],
        repo=source.repo,
        revision=source.revision,
        is_delta=source.path == place.path,
        dataset=label,
        dataset_repo=repo,
        dataset_revision=revision,
        weight=weight,
        norm=vector.norm,
        relative_norm=vector.relative_norm,
        applied_fraction=vector.applied_fraction[job.dtype]["total"],
        n_tokens=training.get("n_tokens_trained"),
        n_steps=training.get("n_steps"),
        learning_rate=training.get("learning_rate"),
        own_base=own_base.label if own_base else None,
        own_base_repo=own_base.repo if own_base else None,
    )


def _is_stock(task: TaskSpec) -> TypeGuard[LightevalTask]:
    """Whether a task is lighteval's own; a user's file may call anything by a benchmark's name."""
    return isinstance(task, LightevalTask) and task.file is None


def _search_facts(job: Job, summary: dict[str, Any], winner: TrialRecord, records: list[TrialRecord]) -> SearchFacts:
    spec = job.recipe.search
    intervals = {name: spec.interval(name) for name in job.pool.names}
    return SearchFacts(
        sampler=spec.sampler.name,
        options=spec.sampler.model_dump(include=_OPTIONS.get(spec.sampler.name, set())),
        n_trials=len(records),
        n_collapsed=summary["n_collapsed"],
        n_failed=summary["n_failed"],
        rungs=tuple(RungFacts(rung.n_samples, rung.top) for rung in spec.rungs),
        objective=describe(spec.objective),
        intervals={name: (interval.low, interval.high) for name, interval in intervals.items()},
        best_trial=winner.number,
        best_value=winner.value,
        warm_starts=tuple(record.source.removeprefix(WARM_START) for record in records if record.is_warm_start),
        started=summary["started"],
        finished=summary["finished"],
        n_adopted=summary["n_adopted"],
        n_raced_out=sum(
            record.stopped == "race" and record.origin is None and record.same_as is None for record in records
        ),
        ended_flat=summary["stopped_flat"],
        gradient=GradientFacts(**summary["gradient"]) if summary["gradient"] else None,
        objective_tasks=tuple(sorted(spec.objective.task_weights)),
        base_value=base_value(spec, records),
    )


def _dev_scores(records: list[TrialRecord], winner: TrialRecord) -> dict[str, dict[str, TaskScores]]:
    """Dev scores of the winner and of the warm starts that are baselines, under the baselines' names."""
    scores = {"winner": winner.scores}
    baselines = warm_start_weights(sorted(winner.weights), ["zero", "singles", "uniform_average", "sum"])
    for name, weights in baselines.items():
        for record in records:
            # By what it is, not by where it came from: a retried or an adopted one may have another source.
            if record.weights == weights and record.stopped is None:
                scores["base_model" if name == "zero" else name] = record.scores
                break
    return scores


def _timings(job: Job, summary: dict[str, Any]) -> dict[str, float]:
    """Seconds by what they were spent on, over all sessions; training of pool and mixture apart."""
    elapsed = {name: float(stage["elapsed_s"]) for name, stage in job.run.manifest()["stages"].items()}
    trained = {name.partition("/")[2]: seconds for name, seconds in elapsed.items() if name.startswith("train/")}
    timings = {
        "train_s": sum(seconds for name, seconds in trained.items() if name not in (DATA_MIXTURE, OPTIMISED_MIXTURE)),
        "vectors_s": sum(seconds for name, seconds in elapsed.items() if name.startswith("vectors/")),
        "merge_s": summary["merge_s"],
        "gradient_s": summary["gradient_s"],
        "score_s": summary["score_s"],
        "held_out_s": sum(model["elapsed_s"] for model in read_json(job.run.held_out_path)["models"].values()),
    }
    if DATA_MIXTURE in trained:
        timings["train_mixture_s"] = trained[DATA_MIXTURE]
    if OPTIMISED_MIXTURE in trained:
        timings["train_mixture_optimised_s"] = trained[OPTIMISED_MIXTURE]
    return timings | {"total_s": sum(timings.values())}
