"""The search for merge weights: objective, journal and study. Receives merge-and-score as a callable: no torch."""

from mergekit_optimer.search.database import Database, check_storage, is_same_storage, storage_label
from mergekit_optimer.search.gradient import Slopes
from mergekit_optimer.search.journal import JournalFile
from mergekit_optimer.search.landscape import Grid, check_slice, judge_point, make_grid, sharpness
from mergekit_optimer.search.ledger import WriteTrial, find_base
from mergekit_optimer.search.move import move_trials, wait_until_whole
from mergekit_optimer.search.objective import Judgement, describe, judge, needs_base, oriented, paired_difference, unit
from mergekit_optimer.search.pareto import pareto_data
from mergekit_optimer.search.places import StudyPlace
from mergekit_optimer.search.progress import Progress, Watch, duration, marks
from mergekit_optimer.search.proposals import make_sampler, warm_start_weights
from mergekit_optimer.search.records import WARM_START, Measured, MergeAndScore, SearchResult, TrialRecord
from mergekit_optimer.search.study import Search
from mergekit_optimer.search.workers import FAULTS, MAX_ATTEMPTS, InProcess, Request, Workers

__all__ = [
    "FAULTS",
    "MAX_ATTEMPTS",
    "WARM_START",
    "Database",
    "Grid",
    "InProcess",
    "JournalFile",
    "Judgement",
    "Measured",
    "MergeAndScore",
    "Progress",
    "Request",
    "Search",
    "SearchResult",
    "Slopes",
    "StudyPlace",
    "TrialRecord",
    "Watch",
    "Workers",
    "WriteTrial",
    "check_slice",
    "check_storage",
    "describe",
    "duration",
    "find_base",
    "is_same_storage",
    "judge",
    "judge_point",
    "make_grid",
    "make_sampler",
    "marks",
    "move_trials",
    "needs_base",
    "oriented",
    "paired_difference",
    "pareto_data",
    "sharpness",
    "storage_label",
    "unit",
    "wait_until_whole",
    "warm_start_weights",
]
