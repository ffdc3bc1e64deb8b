"""The objective: dev scores of a trial -> one number to maximise, and which kept tasks lost too much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mergekit_optimer.errors import SearchError
from mergekit_optimer.recipe import Objective
from mergekit_optimer.scores import TaskScores

# What a point rejected by `keep` loses for a proposal that knows no constraints, per unit of what it lost too much:
# enough to outweigh a gain elsewhere, little enough to leave a bowl a bowl.
KEEP_PENALTY = 10.0


@dataclass(frozen=True)
class Judgement:
    """What the objective says of a trial.

    Attributes:
        value: To be maximised.
        values: What the study is told: the value alone, or one of each task of a Pareto front, all to be maximised.
        violations: For each task of ``keep``, the loss relative to the base minus the loss allowed; the trial is
            rejected where one is above 0.
    """

    value: float
    values: tuple[float, ...]
    violations: dict[str, float]

    @property
    def is_kept(self) -> bool:
        return all(excess <= 0 for excess in self.violations.values())


class Difference(NamedTuple):
    """How much more one trial's objective is than another's, with the standard error of that difference."""

    value: float
    stderr: float


def needs_base(objective: Objective) -> bool:
    """Whether trials are measured against the base model."""
    return objective.gain_over_base or bool(objective.keep)


def judge(
    objective: Objective, scores: Mapping[str, TaskScores], base: Mapping[str, TaskScores] | None = None
) -> Judgement:
    """Judge a trial's scores.

    A Pareto objective's one number is the mean of its tasks, to have something to show: it decides nothing.

    Each task counts by its primary metric, negated where lower is better. With ``gain_over_base`` it counts as its
    gain over the base in units of the base's absolute value (so 0.05 is 5 % better), which makes bits and
    accuracies comparable.

    Args:
        base: The base's scores on the same samples; needed where ``needs_base``.

    Raises:
        SearchError: A task was not scored.
    """
    missing = sorted(objective.task_names - set(scores))
    if missing:
        raise SearchError(f"The objective wants {', '.join(missing)}, which was not scored; add it to tasks.")
    worths = {
        task: _gain(task, scores, base) if objective.gain_over_base else oriented(scores[task])
        for task in objective.task_weights
    }
    total = 0.0
    for task, weight in objective.task_weights.items():
        total += weight * worths[task]
    values = tuple(worths[task] for task in objective.pareto_tasks) or (total,)
    violations = {task: -_gain(task, scores, base) - allowed for task, allowed in sorted(objective.keep.items())}
    return Judgement(total, values, violations)


def paired_difference(
    objective: Objective,
    mine: Mapping[str, TaskScores],
    theirs: Mapping[str, TaskScores],
    base: Mapping[str, TaskScores] | None = None,
) -> Difference:
    """Compare two trials sample by sample, on the longest prefix that both have of each task.

    Args:
        base: The base's scores, for the unit of each task; needed with ``gain_over_base``.

    Returns:
        The difference of the objectives, mine minus theirs; tasks are independent samples, so their errors add as
        squares.
    """
    total, variance = 0.0, 0.0
    for task, weight in objective.task_weights.items():
        one, other = (scores[task].metrics[scores[task].primary] for scores in (mine, theirs))
        n = min(len(one.values), len(other.values))
        score = one.head(n).minus(other.head(n))
        factor = weight if one.higher_is_better else -weight
        if objective.gain_over_base:
            factor /= unit(_base_of(task, base))
        total += factor * score.value
        variance += (factor * score.stderr) ** 2
    return Difference(total, math.sqrt(variance))


def worth(objective: Objective, value: float, excess: float, base_value: float) -> float:
    """A trial's objective, less where it lost more than ``keep`` allows: for proposals that know no constraints.

    Args:
        excess: Sum of the violations above 0.
        base_value: The base's objective.
    """
    # What is lost is relative to the base; so is a gain over the base, and any other objective has its own unit.
    return value - KEEP_PENALTY * excess * (1.0 if objective.gain_over_base else _size(base_value))


def unit(base: TaskScores) -> float:
    """What gains over the base are counted in: the absolute value of its score on that task."""
    return _size(base.score.value)


def oriented(task: TaskScores) -> float:
    """Value of the primary metric with the sign that makes more better."""
    value = task.score.value
    return value if task.metrics[task.primary].higher_is_better else -value


def describe(objective: Objective) -> str:
    """Say the objective in words, for report and card."""
    weights = objective.task_weights
    if objective.mean is not None:
        text = f"mean of {', '.join(weights)}"
    elif objective.pareto is not None:
        text = f"Pareto front of {', '.join(weights)} (winner: nearest to the ideal point)"
    else:
        text = " + ".join(f"{weight:g} x {task}" for task, weight in weights.items())
    if objective.gain_over_base:
        text += ", each as its relative gain over the base model"
    if objective.keep:
        kept = ", ".join(f"{task} at most {100 * allowed:g} %" for task, allowed in sorted(objective.keep.items()))
        text += f"; rejected where a task loses more than allowed ({kept})"
    return text


def _gain(task: str, scores: Mapping[str, TaskScores], base: Mapping[str, TaskScores] | None) -> float:
    reference = _base_of(task, base)
    return (oriented(scores[task]) - oriented(reference)) / unit(reference)


def _base_of(task: str, base: Mapping[str, TaskScores] | None) -> TaskScores:
    if base is None:
        raise SearchError(f"The objective measures '{task}' against the base model, which was not scored.")
    return base[task]


def _size(value: float) -> float:
    """An absolute value to measure by; exactly 0 (no answer right) has none, so plain differences are taken."""
    return abs(value) or 1.0
