"""Analyses of a run: its vectors, its trainings, what each vector brings. Each writes one JSON and one CSV."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

from mergekit_optimer.analysis import (
    Attribution,
    Geometry,
    Trajectory,
    attribute,
    geometry_figures,
    measure_trajectory,
    pool_geometry,
    study_importances,
    trajectory_figure,
    trajectory_json,
    trajectory_rows,
    write_analysis,
)
from mergekit_optimer.compare import BASE, WINNER
from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.files import content_hash, discard, read_json, write_json
from mergekit_optimer.pipeline.held_out import held_out_identity, held_out_scores
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.stages import held_out_tasks
from mergekit_optimer.pipeline.trial import MergeAndScorer
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.search import TrialRecord
from mergekit_optimer.train import read_record, read_trajectory

log = logging.getLogger(__name__)


def measure_vectors(job: Job) -> tuple[Geometry, dict[str, Trajectory]]:
    """Measure how the pool's vectors lie, and how straight the trainings went whose way was kept."""
    geometry = pool_geometry(job.pool, job.dtype)
    write_analysis(job.run.analysis_path("geometry"), geometry.to_json(), geometry.rows())
    trajectories = _trajectories(job)
    if trajectories:
        data = trajectory_json(trajectories)
        write_analysis(job.run.analysis_path("trajectory"), data, trajectory_rows(trajectories))
    else:
        # Of an earlier training, perhaps.
        for suffix in (".json", ".csv"):
            discard(job.run.analysis_path("trajectory").with_suffix(suffix))
    return geometry, trajectories


def draw_vectors(job: Job, geometry: Geometry, trajectories: dict[str, Trajectory]) -> list[Path]:
    """Draw what ``measure_vectors`` measured into report/figures.

    Returns:
        Every file of the analysis: numbers first, then figures.
    """
    folder = job.run.figure_path.parent
    figures = geometry_figures(geometry, folder)
    analyses = ["geometry"]
    if trajectories:
        figures.append(trajectory_figure(trajectories, folder / "trajectory.png"))
        analyses.append("trajectory")
    numbers = [job.run.analysis_path(name).with_suffix(s) for name in analyses for s in (".json", ".csv")]
    return numbers + figures


def attribute_winner(job: Job) -> Attribution:
    """Score the winner without each vector on the held-out set, and compare it with the winner.

    What is scored already, with the same weights and samples, is not scored again.

    Raises:
        RunFolderError: The winner has no held-out scores yet, or they are of other samples.
    """
    weights: dict[str, float] = read_json(job.run.winner_path)["winner"]["weights"]
    tasks = held_out_tasks(job)
    identity = held_out_identity(job, tasks)
    known = read_json(job.run.held_out_path)
    if known["identity"] != identity or WINNER not in known["models"]:
        raise RunFolderError(
            f"{job.run.held_out_path} is not of this winner and these held-out samples; run `mergekit-optimer compare` "
            "again."
        )
    scores = held_out_scores(job)
    # The comparison's model may still be there: a web of cycles, which only the collector takes apart.
    gc.collect()
    without = _scores_without(job, weights, scores[WINNER], identity, MergeAndScorer(job, tasks))
    first = job.recipe.search.rungs[0].n_samples
    intervals = {name: job.recipe.search.interval(name) for name in weights}
    importances = study_importances(study_records(job), intervals, first)
    found = attribute(weights, scores[WINNER], scores[BASE], without, importances, seed=job.recipe.seed)
    write_analysis(job.run.analysis_path("attribution"), found.to_json(), found.rows())
    return found


def _scores_without(
    job: Job, weights: dict[str, float], winner: dict[str, TaskScores], identity: str, merger: MergeAndScorer
) -> dict[str, dict[str, TaskScores]]:
    """Held-out scores of the winner with one weight at 0, by vector; kept as they come, so that a kill costs one."""
    path = job.run.analysis_path("attribution_scores")
    key = content_hash([identity, job.pool_files])
    data: dict[str, Any] = read_json(path) if path.exists() else {}
    known: dict[str, Any] = data.get("models", {}) if data.get("identity") == key else {}
    models: dict[str, Any] = {}
    found = {}
    for number, (name, weight) in enumerate(sorted(weights.items()), 1):
        if weight == 0:
            # It is the winner itself.
            found[name] = winner
            continue
        rest = weights | {name: 0.0}
        if known.get(name, {}).get("weights") != rest:
            scores = merger.score_weights(rest)
            known = known | {name: {"weights": rest, "tasks": {task: one.to_json() for task, one in scores.items()}}}
            write_json(path, {"identity": key, "models": known})
            shown = "  ".join(f"{task} {one.score.value:.4f}" for task, one in scores.items())
            log.info("attribution %d/%d  without %s: %s", number, len(weights), name, shown)
        models[name] = known[name]
        found[name] = {task: TaskScores.from_json(one) for task, one in models[name]["tasks"].items()}
    return found


def _trajectories(job: Job) -> dict[str, Trajectory]:
    """The training of each vector that was trained here with points kept."""
    winner = read_json(job.run.winner_path)["winner"]["weights"] if job.run.winner_path.exists() else {}
    found = {}
    for name, spec in job.recipe.pool.items():
        folder = job.run.checkpoint_dir(spec.dataset) if spec.dataset is not None else None
        steps = read_trajectory(folder) if folder is not None else []
        if folder is not None and steps:
            n_tokens = read_record(folder).n_tokens_trained
            found[name] = measure_trajectory(name, steps, job.vector(name).path, n_tokens, winner.get(name))
    return found


def study_records(job: Job) -> list[TrialRecord]:
    """The study's trials in order."""
    return [
        TrialRecord.from_json(read_json(job.run.trial_dir(number) / "scores.json"))
        for number in read_json(job.run.winner_path)["trials"]
    ]
