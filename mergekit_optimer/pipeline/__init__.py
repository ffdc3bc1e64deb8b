"""The pipeline: recipe -> train -> vectors -> (merge -> score)* -> held-out -> report -> card, stage by stage."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from mergekit_optimer.errors import DiskError, OptimerError
from mergekit_optimer.pipeline.adopt import adopt_run, check_source
from mergekit_optimer.pipeline.analyses import attribute_winner, draw_vectors, measure_vectors
from mergekit_optimer.pipeline.cost import count_cost
from mergekit_optimer.pipeline.held_out import compare_held_out, score_model
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.landscape import measure_landscape
from mergekit_optimer.pipeline.means import TRIAL_TIMEOUT_S, Means, check_means, visible_gpus
from mergekit_optimer.pipeline.mixing import train_optimised, write_mixture
from mergekit_optimer.pipeline.objectives import compare_objectives
from mergekit_optimer.pipeline.paging import is_compared, missing_parts, read_report, write_page
from mergekit_optimer.pipeline.pins import pin_recipe, read_pins
from mergekit_optimer.pipeline.pulling import is_reference, pull_file, pull_pool, pull_recipe, with_local_models
from mergekit_optimer.pipeline.pushing import check_push, push_checkpoints, push_model, push_pool, push_trained
from mergekit_optimer.pipeline.reporting import write_card, write_report
from mergekit_optimer.pipeline.searching import IN_PROCESS, held, help_search, is_same_study, move_study, search_weights
from mergekit_optimer.pipeline.stages import check_inputs, merge_model, merge_winner, train_pool
from mergekit_optimer.pipeline.trial import MergeAndScorer
from mergekit_optimer.pipeline.uploads import CARD, MERGE_CONFIG, is_private
from mergekit_optimer.pipeline.vector_sources import make_missing_vectors, make_vectors
from mergekit_optimer.report import ReportData
from mergekit_optimer.search import Watch

log = logging.getLogger(__name__)

__all__ = [
    "CARD",
    "MERGE_CONFIG",
    "TRIAL_TIMEOUT_S",
    "Job",
    "Means",
    "MergeAndScorer",
    "adopt_run",
    "attribute_winner",
    "check_inputs",
    "check_means",
    "check_push",
    "check_source",
    "compare_held_out",
    "compare_objectives",
    "count_cost",
    "draw_vectors",
    "held",
    "help_search",
    "is_compared",
    "is_private",
    "is_reference",
    "is_same_study",
    "make_missing_vectors",
    "make_vectors",
    "measure_landscape",
    "measure_vectors",
    "merge_model",
    "merge_winner",
    "missing_parts",
    "move_study",
    "pin_recipe",
    "pull_file",
    "pull_pool",
    "pull_recipe",
    "push_checkpoints",
    "push_model",
    "push_pool",
    "push_trained",
    "read_pins",
    "read_report",
    "run_all",
    "score_model",
    "search_weights",
    "train_optimised",
    "train_pool",
    "visible_gpus",
    "with_local_models",
    "write_card",
    "write_mixture",
    "write_page",
    "write_report",
]


def run_all(
    job: Job, watch: Callable[[], AbstractContextManager[Watch | None]] = nullcontext, means: Means = IN_PROCESS
) -> ReportData:
    """Run every stage in order; what is done is left alone.

    Args:
        means: Workers and storage of the search.
        watch: Opened around the search; what it gives is told of every trial that ends.
    """
    check_inputs(job)
    train_pool(job)
    make_vectors(job)
    with watch() as watching:
        search_weights(job, watch=watching, means=means)
    train_optimised(job)
    compare_held_out(job)
    _analyse(job)
    report = write_report(job)
    write_card(job)
    return report


def _analyse(job: Job) -> None:
    """Make the analyses that take seconds; one that this pool does not allow is said, and ends nothing."""
    for work in (lambda: draw_vectors(job, *measure_vectors(job)), lambda: write_mixture(job), lambda: count_cost(job)):
        try:
            work()
        except DiskError:
            raise
        except OptimerError as error:
            log.info("not in the report: %s", error)
