"""The pipeline: recipe -> train -> vectors -> (merge -> score)* -> held-out -> report -> card, stage by stage."""

from __future__ import annotations

from mergekit_optimer.pipeline.held_out import compare_held_out, score_model
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.reporting import write_card, write_report
from mergekit_optimer.pipeline.stages import check_inputs, make_vectors, search_weights, train_pool
from mergekit_optimer.report import ReportData
from mergekit_optimer.runs import content_hash, read_json

__all__ = [
    "Job",
    "check_inputs",
    "compare_held_out",
    "make_vectors",
    "run_all",
    "score_model",
    "search_weights",
    "train_pool",
    "write_card",
    "write_report",
]


def run_all(job: Job) -> ReportData:
    """Run every stage in order; what is done is left alone."""
    check_inputs(job)
    train_pool(job)
    make_vectors(job)
    search_weights(job)
    winner = read_json(job.run.winner_path)["winner"]["weights"]
    samples = [spec.model_dump(mode="json") for _, spec in sorted(job.recipe.held_out.items())]
    with job.stage("compare", content_hash([job.base_fingerprint, winner, samples])) as wanted:
        if wanted:
            compare_held_out(job)
    report = write_report(job)
    write_card(job)
    return report
