"""The race: dev samples scored in chunks, a trial stopped once it is clearly worse than the incumbent.

Size and power of the test, simulated with looks every 50 of 1000 right-or-wrong samples: of equal models 5 % are
stopped; a model 5 points worse is stopped after 470 samples in the mean.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Literal

from mergekit_optimer.recipe import RACE_FROM
from mergekit_optimer.scores import TaskScores, collapsed, floored
from mergekit_optimer.search.ledger import Ledger
from mergekit_optimer.search.records import Measured, append_scores, head

CHUNK = 50
# Standard errors that the paired difference must lie below 0.
CLEARLY = 2.3


@dataclass(frozen=True)
class Lap:
    """What was measured of one trial, and whether it was stopped.

    Attributes:
        measured: Raw scores of all chunks together, and the seconds they took.
        n_samples: Dev samples of each task scored.
        stopped: As in ``TrialRecord``.
        estimate: The objective it would have on the whole first rung, where the race stopped it.
    """

    measured: Measured
    n_samples: int
    stopped: Literal["race", "collapsed"] | None = None
    estimate: float | None = None


# Yields the samples to be scored next as (start, stop), is sent what was measured, and returns the whole.
Laps = Generator[tuple[int, int], Measured, Lap]


def score_whole(n_samples: int) -> Laps:
    """Score a trial in one go."""
    measured = yield 0, n_samples
    return Lap(measured, n_samples)


def score_in_chunks(ledger: Ledger, may_lose: bool, may_collapse: bool) -> Laps:
    """Score a trial chunk by chunk until it is clearly worse than the incumbent, has collapsed, or is through.

    Args:
        may_lose: Whether the race may stop it; warm starts are baselines, which need all samples.
        may_collapse: Whether a collapse stops it; not the base that others are measured against.
    """
    n_samples, stop = ledger.first_rung, 0
    so_far = Measured({}, 0.0, 0.0)
    while True:
        start, stop = stop, min(stop + CHUNK, n_samples)
        chunk = yield start, stop
        scores = append_scores(so_far.scores, chunk.scores) if start else chunk.scores
        so_far = Measured(scores, so_far.merge_s + chunk.merge_s, so_far.score_s + chunk.score_s)
        if stop == n_samples or not chunk.scores:
            # A chunk without samples: every task has ended before the rung does.
            return Lap(so_far, n_samples)
        if may_collapse and collapsed(scores):
            return Lap(so_far, stop, "collapsed")
        if may_lose and stop >= RACE_FROM:
            estimate = lost_at(ledger, scores)
            if estimate is not None:
                return Lap(so_far, stop, "race", estimate)


def lost_at(ledger: Ledger, scores: dict[str, TaskScores]) -> float | None:
    """Say whether a trial is clearly worse than the incumbent on the same samples.

    Returns:
        The incumbent's objective plus the paired difference, which is less noisy than the mean of the samples seen;
        None where it is not clearly worse, or nothing is there to compare with.
    """
    incumbent = ledger.incumbent()
    # A trial that has all samples, as its tasks are shorter than the rung, is through and costs no more.
    if incumbent is None or _n_scored(scores) == _n_scored(head(incumbent.scores, ledger.first_rung)):
        return None
    difference = ledger.difference(floored(scores), incumbent)
    if difference.value + CLEARLY * difference.stderr >= 0:
        return None
    return incumbent.values[ledger.first_rung] + difference.value


def _n_scored(scores: Mapping[str, TaskScores]) -> dict[str, int]:
    return {name: len(task.metrics[task.primary].values) for name, task in scores.items()}
