"""The search for merge weights: objective, journal and study. Receives merge-and-score as a callable: no torch."""

from mergekit_optimer.search.gradient import Slopes
from mergekit_optimer.search.landscape import Grid, check_slice, judge_point, make_grid, sharpness
from mergekit_optimer.search.ledger import find_base
from mergekit_optimer.search.objective import Judgement, describe, judge, needs_base, oriented, paired_difference, unit
from mergekit_optimer.search.pareto import pareto_data
from mergekit_optimer.search.progress import Progress, Watch, duration, marks
from mergekit_optimer.search.proposals import make_sampler, warm_start_weights
from mergekit_optimer.search.records import WARM_START, Measured, MergeAndScore, SearchResult, TrialRecord
from mergekit_optimer.search.study import Search

__all__ = [
    "WARM_START",
    "Grid",
    "Judgement",
    "Measured",
    "MergeAndScore",
    "Progress",
    "Search",
    "SearchResult",
    "Slopes",
    "TrialRecord",
    "Watch",
    "check_slice",
    "describe",
    "duration",
    "find_base",
    "judge",
    "judge_point",
    "make_grid",
    "make_sampler",
    "marks",
    "needs_base",
    "oriented",
    "paired_difference",
    "pareto_data",
    "sharpness",
    "unit",
    "warm_start_weights",
]
