"""The objective: dev scores of a trial -> one number to maximise, and which kept tasks lost too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mergekit_optimer.errors import SearchError
from mergekit_optimer.recipe import Objective
from mergekit_optimer.scores import TaskScores


@dataclass(frozen=True)
class Judgement:
    """What the objective says of a trial.

    Attributes:
        value: To be maximised.
        violations: For each task of ``keep``, the loss relative to the base minus the loss allowed; the trial is
            rejected where one is above 0.
    """

    value: float
    violations: dict[str, float]

    @property
    def is_kept(self) -> bool:
        return all(excess <= 0 for excess in self.violations.values())


def needs_base(objective: Objective) -> bool:
    """Whether trials are measured against the base model."""
    return objective.gain_over_base or bool(objective.keep)


def judge(
    objective: Objective, scores: Mapping[str, TaskScores], base: Mapping[str, TaskScores] | None = None
) -> Judgement:
    """Judge a trial's scores.

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
    total = 0.0
    for task, weight in objective.task_weights.items():
        total += weight * (_gain(task, scores, base) if objective.gain_over_base else oriented(scores[task]))
    violations = {task: -_gain(task, scores, base) - allowed for task, allowed in sorted(objective.keep.items())}
    return Judgement(total, violations)


def oriented(task: TaskScores) -> float:
    """Value of the primary metric with the sign that makes more better."""
    value = task.score.value
    return value if task.metrics[task.primary].higher_is_better else -value


def describe(objective: Objective) -> str:
    """Say the objective in words, for report and card."""
    weights = objective.task_weights
    if objective.mean is not None:
        text = f"mean of {', '.join(weights)}"
    else:
        text = " + ".join(f"{weight:g} x {task}" for task, weight in weights.items())
    if objective.gain_over_base:
        text += ", each as its relative gain over the base model"
    if objective.keep:
        kept = ", ".join(f"{task} at most {100 * allowed:g} %" for task, allowed in sorted(objective.keep.items()))
        text += f"; rejected where a task loses more than allowed ({kept})"
    return text


def _gain(task: str, scores: Mapping[str, TaskScores], base: Mapping[str, TaskScores] | None) -> float:
    if base is None:
        raise SearchError(f"The objective measures '{task}' against the base model, which was not scored.")
    difference = oriented(scores[task]) - oriented(base[task])
    unit = abs(base[task].score.value)
    # A base of exactly 0 (no answer right) has no unit; the plain difference stays comparable between trials.
    return difference / unit if unit else difference
