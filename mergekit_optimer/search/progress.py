"""How far a study is: what is known after each trial, and its line in the log, as a person can follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mergekit_optimer.search.records import TrialRecord


@dataclass(frozen=True)
class Progress:
    """A study after one more trial.

    Attributes:
        record: The trial that has ended.
        n_done: Trials done of this study, of ``n_trials``.
        best_value: Objective of the best kept trial on the first rung, and ``best_number`` its number.
        n_front: Trials on the front of a Pareto search, which has no best; None for any other.
        elapsed_s: Seconds that the trial took.
        trial_s: Mean seconds of this session's trials.
    """

    record: TrialRecord
    n_done: int
    n_trials: int
    best_value: float
    best_number: int
    n_front: int | None
    elapsed_s: float
    trial_s: float

    @property
    def left_s(self) -> float:
        """Seconds that the trials to come will take, if they take as long as this session's so far."""
        return self.trial_s * (self.n_trials - self.n_done)

    @property
    def best(self) -> str:
        """The best so far, in words."""
        if self.n_front is not None:
            return f"front of {self.n_front}"
        return f"best {self.best_value:.4f} (#{self.best_number})"


# Told of every trial that ends, in place of its line in the log.
Watch = Callable[[Progress], None]


def trial_line(progress: Progress) -> str:
    """Say a finished trial: "trial 7/60  dev 0.412  best 0.431 (#3)  38 s  12 min left  ja=+0.50"."""
    record = progress.record
    parts = [
        f"trial {progress.n_done}/{progress.n_trials}",
        f"dev {record.values[min(record.values)]:.4f}",
        progress.best,
        f"{progress.elapsed_s:.1f} s",
        f"{duration(progress.left_s)} left",
        *marks(record),
        " ".join(f"{name}={weight:+.2f}" for name, weight in record.weights.items()),
    ]
    return "  ".join(parts)


def marks(record: TrialRecord) -> list[str]:
    """What sets a trial apart, in a word or two each."""
    found = []
    if record.collapsed:
        found.append("collapsed")
    elif record.stopped == "race":
        found.append(f"stopped after {record.n_samples} samples")
    elif not record.is_kept:
        found.append("rejected")
    if record.same_as is not None:
        found.append(f"same as #{record.same_as}")
    return found


def duration(seconds: float) -> str:
    """Say a duration as a person would: 38 s, 4 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
