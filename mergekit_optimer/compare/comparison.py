"""The winner against the baselines on the held-out set: paired bootstrap intervals and one verdict. Numbers only.

Every difference is oriented so that a positive one means that the winner is better, whatever the metric's direction.

The mean over tasks has two meanings, and ``Comparison.mean_of`` says which one holds:

- ``scores``: all held-out tasks share one primary metric; the mean is the plain mean of its values, in its own unit.
- ``relative_gains``: the metrics differ and their values cannot be added. Each task then counts as the oriented
  difference from ``base_model`` divided by the base model's own absolute value (by 1 where that value is 0), so that
  0.05 reads "5 % better than the base model", and the mean is the plain mean of these gains. The unit is a fixed
  number: its own sampling error is in no interval.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from mergekit_optimer.compare.bootstrap import (
    LEVEL,
    Interval,
    Verdict,
    check_paired,
    percentile_interval,
    resampled_differences,
)
from mergekit_optimer.errors import TaskError
from mergekit_optimer.scores import MetricSamples, Score, TaskScores, collapsed, floored

WINNER = "winner"
BASE = "base_model"

Scores = Mapping[str, Mapping[str, TaskScores]]


@dataclass(frozen=True)
class BaselineComparison:
    """The winner against one baseline, task by task and in the mean."""

    tasks: dict[str, Interval]
    mean: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Gap:
    """Oriented difference held-out minus dev of one model on one task; negative: worse on the held-out set.

    The two sets differ in difficulty, so the winner's gap reads beside the base model's, which was never selected.
    """

    difference: float
    stderr: float


@dataclass(frozen=True)
class Comparison:
    """Everything that is said of the winner on the held-out set.

    Attributes:
        tasks: The held-out tasks, sorted.
        mean_of: What the mean over tasks is a mean of; see the module's first lines.
        mean_higher_is_better: Direction of ``means`` (the differences are always positive where the winner is better).
        units: What one task's difference is divided by in the mean: 1 for ``scores``.
        means: The mean over tasks of each model, in the metric's own direction; n counts the samples of all tasks.
        ranking: The baselines, best held-out mean first.
        gaps: Model -> task -> gap, for tasks that stand in both sets with the same primary metric.
        collapsed: Model -> held-out tasks on which it collapsed and was given the metric's floor.
    """

    tasks: tuple[str, ...]
    mean_of: Literal["scores", "relative_gains"]
    mean_higher_is_better: bool
    units: dict[str, float]
    means: dict[str, Score]
    baselines: dict[str, BaselineComparison]
    ranking: tuple[str, ...]
    best_baseline: str
    verdict: Verdict
    gaps: dict[str, dict[str, Gap]]
    collapsed: dict[str, tuple[str, ...]]
    n_resamples: int
    level: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Comparison:
        return TypeAdapter(cls).validate_python(data)


def compare(held_out: Scores, dev: Scores | None = None, *, seed: int, n_resamples: int = 10_000) -> Comparison:
    """Compare the winner with every baseline on the held-out tasks.

    Args:
        held_out: Model name -> task -> scores; holds ``winner`` and ``base_model``, and the same tasks for each model.
        dev: The same for the dev tasks, for the models that have been scored there; only used for the gaps.
        seed: Of the resampling; each task draws from its own stream, so adding a task changes no other's interval.

    Raises:
        TaskError: A model or task is missing, or models were scored on different samples.
    """
    tasks = _check_complete(held_out)
    fell = {model: tuple(collapsed(dict(scores))) for model, scores in sorted(held_out.items())}
    models = [WINNER, *sorted(set(held_out) - {WINNER})]
    primary = {
        task: {model: _primary(floored({task: held_out[model][task]})[task]) for model in models} for task in tasks
    }
    for task in tasks:
        check_paired(f"held-out task '{task}'", primary[task])

    signs = {task: 1.0 if primary[task][WINNER].higher_is_better else -1.0 for task in tasks}
    kinds = {(held_out[WINNER][task].primary, signs[task]) for task in tasks}
    alike = len(kinds) == 1
    scores = {task: {model: primary[task][model].score() for model in models} for task in tasks}
    units = {task: 1.0 if alike else abs(scores[task][BASE].value) or 1.0 for task in tasks}

    draws = {}
    for task in tasks:
        others = [primary[task][model] for model in models[1:]]
        draws[task] = resampled_differences(primary[task][WINNER], others, n_resamples, _task_seed(seed, task))
    baselines = {}
    for column, model in enumerate(models[1:]):
        points = {t: signs[t] * (scores[t][WINNER].value - scores[t][model].value) for t in tasks}
        replicates = {t: draws[t][:, column] for t in tasks}
        # Tasks are resampled independently of each other: the strata of one stratified bootstrap.
        mean = percentile_interval(
            math.fsum(points[t] / units[t] for t in tasks) / len(tasks),
            np.mean([replicates[t] / units[t] for t in tasks], axis=0),
        )
        by_task = {t: percentile_interval(points[t], replicates[t]) for t in tasks}
        baselines[model] = BaselineComparison(by_task, mean, mean.verdict)

    # The mean of oriented differences ranks the same under both meanings of the mean.
    ranking = tuple(sorted(baselines, key=lambda name: (baselines[name].mean.difference, name)))
    return Comparison(
        tasks=tuple(tasks),
        mean_of="scores" if alike else "relative_gains",
        mean_higher_is_better=signs[tasks[0]] > 0 if alike else True,
        units=units,
        means=_mean_scores(scores if alike else _gains(primary, signs, units)),
        baselines=baselines,
        ranking=ranking,
        best_baseline=ranking[0],
        verdict=baselines[ranking[0]].verdict,
        gaps=_gaps(held_out, dev or {}),
        collapsed={model: names for model, names in fell.items() if names},
        n_resamples=n_resamples,
        level=LEVEL,
        seed=seed,
    )


def _check_complete(held_out: Scores) -> list[str]:
    for model in (WINNER, BASE):
        if model not in held_out:
            raise TaskError(f"The held-out scores lack {model}; score it on the held-out tasks first.")
    tasks = sorted(held_out[WINNER])
    if not tasks:
        raise TaskError("The winner has no held-out score; score it on the held-out tasks first.")
    for model, scores in sorted(held_out.items()):
        if sorted(scores) != tasks:
            odd = ", ".join(sorted(set(scores) ^ set(tasks)))
            raise TaskError(f"{model} and winner have different held-out tasks ({odd}); score both on the same ones.")
        for task in tasks:
            if scores[task].primary != held_out[WINNER][task].primary:
                raise TaskError(f"{model} and winner have different primary metrics on '{task}'; score both anew.")
    return tasks


def _primary(task: TaskScores) -> MetricSamples:
    return task.metrics[task.primary]


def _task_seed(seed: int, task: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{task}".encode()).digest()[:8], "big")


def _gains(
    primary: Mapping[str, Mapping[str, MetricSamples]], signs: Mapping[str, float], units: Mapping[str, float]
) -> dict[str, dict[str, Score]]:
    """Gain of each model over the base model on each task, in units of the base model's value, paired."""
    gains: dict[str, dict[str, Score]] = {}
    for task, models in primary.items():
        paired = {model: samples.minus(models[BASE]) for model, samples in models.items()}
        gains[task] = {
            model: Score(signs[task] * score.value / units[task] + 0.0, score.stderr / units[task], score.n)
            for model, score in paired.items()
        }
    return gains


def _mean_scores(scores: Mapping[str, Mapping[str, Score]]) -> dict[str, Score]:
    """Plain mean over tasks of each model; the tasks' samples are independent, so their variances add."""
    n_tasks = len(scores)
    return {
        model: Score(
            math.fsum(task[model].value for task in scores.values()) / n_tasks,
            math.sqrt(math.fsum(task[model].stderr ** 2 for task in scores.values())) / n_tasks,
            sum(task[model].n for task in scores.values()),
        )
        for model in sorted(next(iter(scores.values())))
    }


def _gaps(held_out: Scores, dev: Scores) -> dict[str, dict[str, Gap]]:
    gaps: dict[str, dict[str, Gap]] = {}
    for model in sorted(set(held_out) & set(dev)):
        for task in sorted(set(held_out[model]) & set(dev[model])):
            after, before = held_out[model][task], dev[model][task]
            if after.primary != before.primary:
                continue
            sign = 1.0 if _primary(after).higher_is_better else -1.0
            after_score = floored({task: after})[task].score
            before_score = floored({task: before})[task].score
            gap = Gap(
                sign * (after_score.value - before_score.value), math.hypot(after_score.stderr, before_score.stderr)
            )
            gaps.setdefault(model, {})[task] = gap
    return gaps
