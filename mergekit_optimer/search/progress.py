"""A trial's line in the log, as a person can follow it."""

from __future__ import annotations

from mergekit_optimer.search.records import TrialRecord


def trial_line(
    record: TrialRecord, count: str, best_value: float, best_number: int, elapsed_s: float, left_s: float
) -> str:
    """Say a finished trial: "trial 7/60  dev 0.412  best 0.431 (#3)  38 s  12 min left  ja=+0.50".

    Args:
        count: Trials done of how many, as "7/60".
        left_s: Seconds that the trials to come will take, if they take as long.
    """
    parts = [
        f"trial {count}",
        f"dev {record.values[min(record.values)]:.4f}",
        f"best {best_value:.4f} (#{best_number})",
        f"{elapsed_s:.1f} s",
        f"{duration(left_s)} left",
        *_marks(record),
        " ".join(f"{name}={weight:+.2f}" for name, weight in record.weights.items()),
    ]
    return "  ".join(parts)


def _marks(record: TrialRecord) -> list[str]:
    marks = []
    if record.collapsed:
        marks.append("collapsed")
    elif record.stopped == "race":
        marks.append(f"stopped after {record.n_samples} samples")
    elif not record.is_kept:
        marks.append("rejected")
    if record.same_as is not None:
        marks.append(f"same as #{record.same_as}")
    return marks


def duration(seconds: float) -> str:
    """Say a duration as a person would: 38 s, 4 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
