"""Run folder -> report.json, the terminal table and the card. Measures nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mergekit_optimer.cards import render_model_card
from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.merge import merge_yaml, portable_yaml
from mergekit_optimer.pipeline.held_out import held_out_scores
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.recipe import DATA_MIXTURE
from mergekit_optimer.report import (
    BaseModelFacts,
    GradientFacts,
    ReportData,
    RungFacts,
    SearchFacts,
    VectorFacts,
    build_report,
)
from mergekit_optimer.runs import package_versions, read_json, write_json, write_text
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.search import WARM_START, TrialRecord, describe, warm_start_weights

# The options that each sampler is given.
_OPTIONS = {"tpe": {"assist", "multivariate", "constant_liar", "n_startup_trials"}, "gp": {"n_startup_trials"}}


def write_report(job: Job) -> ReportData:
    """Gather the run's numbers into report/report.json."""
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
        model_dir=job.run.model_dir.relative_to(job.run.root).as_posix(),
        card_path=job.run.card_path.relative_to(job.run.root).as_posix(),
    )
    write_json(job.run.report_path, report.to_json())
    return report


def _command(job: Job) -> str:
    """The command that makes the run again: the one that took trials over, where there is one."""
    source = job.run.adopted_path if job.run.adopted_path.exists() else job.run.manifest_path
    return str(read_json(source)["command"])


def write_card(job: Job) -> Path:
    """Render the model card from report.json, into card/ and beside the merged model.

    Raises:
        RunFolderError: There is no merged model for it.
    """
    report = ReportData.from_json(read_json(job.run.report_path))
    if not job.run.model_dir.exists():
        raise RunFolderError(f"{job.run.root} holds no merged model; `mergekit-optimer search` makes it.")
    write_text(job.run.card_path, render_model_card(report))
    shutil.copyfile(job.run.card_path, job.run.model_dir / "README.md")
    return job.run.card_path


def _vector_facts(job: Job, name: str, weight: float) -> VectorFacts:
    vector, spec = job.pool.vectors[name], job.recipe.pool[name]
    source = job.checkpoint(name) or job.vector(name)
    training = vector.training or {}
    own_base = job.own_base(spec)
    dataset = None
    if spec.dataset is not None and job.recipe.train is not None:
        dataset = str(job.recipe.train.datasets[spec.dataset])
    return VectorFacts(
        name=name,
        label=job.labels[str(source.path)],
        repo=source.repo,
        dataset=dataset,
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
        "train_s": sum(seconds for name, seconds in trained.items() if name != DATA_MIXTURE),
        "vectors_s": sum(seconds for name, seconds in elapsed.items() if name.startswith("vectors/")),
        "merge_s": summary["merge_s"],
        "gradient_s": summary["gradient_s"],
        "score_s": summary["score_s"],
        "held_out_s": sum(model["elapsed_s"] for model in read_json(job.run.held_out_path)["models"].values()),
    }
    if DATA_MIXTURE in trained:
        timings["train_mixture_s"] = trained[DATA_MIXTURE]
    return timings | {"total_s": sum(timings.values())}
