"""The search for merge weights: objective, journal and study. Receives merge-and-score as a callable: no torch."""

from mergekit_optimer.search.gradient import Slopes
from mergekit_optimer.search.objective import Judgement, describe, judge, needs_base, oriented, unit
from mergekit_optimer.search.proposals import make_sampler, warm_start_weights
from mergekit_optimer.search.records import WARM_START, Measured, MergeAndScore, SearchResult, TrialRecord
from mergekit_optimer.search.study import Search

__all__ = [
    "WARM_START",
    "Judgement",
    "Measured",
    "MergeAndScore",
    "Search",
    "SearchResult",
    "Slopes",
    "TrialRecord",
    "describe",
    "judge",
    "make_sampler",
    "needs_base",
    "oriented",
    "unit",
    "warm_start_weights",
]
