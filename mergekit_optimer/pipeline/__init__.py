"""The pipeline: recipe -> train -> vectors -> (merge -> score)* -> held-out -> report -> card, stage by stage."""

from __future__ import annotations

from mergekit_optimer.pipeline.adopt import adopt_run, check_source
from mergekit_optimer.pipeline.held_out import compare_held_out, score_model
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.pins import pin_recipe, read_pins
from mergekit_optimer.pipeline.pulling import is_reference, pull_file, pull_pool, pull_recipe, with_local_models
from mergekit_optimer.pipeline.pushing import push_checkpoints, push_model, push_pool, push_trained
from mergekit_optimer.pipeline.reporting import write_card, write_report
from mergekit_optimer.pipeline.stages import (
    check_inputs,
    merge_model,
    merge_winner,
    search_weights,
    train_pool,
)
from mergekit_optimer.pipeline.trial import MergeAndScorer
from mergekit_optimer.pipeline.uploads import CARD, MERGE_CONFIG, is_private
from mergekit_optimer.pipeline.vector_sources import make_vectors
from mergekit_optimer.report import ReportData

__all__ = [
    "CARD",
    "MERGE_CONFIG",
    "Job",
    "MergeAndScorer",
    "adopt_run",
    "check_inputs",
    "check_source",
    "compare_held_out",
    "is_private",
    "is_reference",
    "make_vectors",
    "merge_model",
    "merge_winner",
    "pin_recipe",
    "pull_file",
    "pull_pool",
    "pull_recipe",
    "push_checkpoints",
    "push_model",
    "push_pool",
    "push_trained",
    "read_pins",
    "run_all",
    "score_model",
    "search_weights",
    "train_pool",
    "with_local_models",
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
