"""The pipeline: recipe -> train -> vectors -> (merge -> score)* -> held-out -> report -> card, stage by stage."""

from __future__ import annotations

from mergekit_optimer.pipeline.adopt import adopt_run, check_source
from mergekit_optimer.pipeline.held_out import compare_held_out, score_model
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.reporting import write_card, write_report
from mergekit_optimer.pipeline.stages import (
    check_inputs,
    make_vectors,
    merge_model,
    merge_winner,
    search_weights,
    train_pool,
)
from mergekit_optimer.pipeline.trial import MergeAndScorer
from mergekit_optimer.report import ReportData

__all__ = [
    "Job",
    "MergeAndScorer",
    "adopt_run",
    "check_inputs",
    "check_source",
    "compare_held_out",
    "make_vectors",
    "merge_model",
    "merge_winner",
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
    compare_held_out(job)
    report = write_report(job)
    write_card(job)
    return report
