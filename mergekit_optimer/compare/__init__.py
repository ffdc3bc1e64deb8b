"""The winner against the baselines on the held-out set: intervals, means, ranking and one verdict. Numbers only."""

from mergekit_optimer.compare.bootstrap import Interval, Verdict, paired_bootstrap
from mergekit_optimer.compare.comparison import (
    BASE,
    WINNER,
    BaselineComparison,
    Comparison,
    Gap,
    Scores,
    compare,
)

__all__ = [
    "BASE",
    "WINNER",
    "BaselineComparison",
    "Comparison",
    "Gap",
    "Interval",
    "Scores",
    "Verdict",
    "compare",
    "paired_bootstrap",
]
