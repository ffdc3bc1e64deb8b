"""Scores and facts of a run -> ReportData. Reads no file: whoever knows the run folder hands everything in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mergekit_optimer.compare import BASE, WINNER, BaselineComparison, Scores, compare
from mergekit_optimer.errors import TaskError
from mergekit_optimer.recipe import DATA_MIXTURE, OPTIMISED_MIXTURE
from mergekit_optimer.report.data import (
    BaseModelFacts,
    Part,
    ReportData,
    SearchFacts,
    TaskFacts,
    TrialFacts,
    VectorFacts,
)
from mergekit_optimer.report.gains import relative_gains
from mergekit_optimer.scores import Score, TaskScores, floored

# A sampler hardly ever proposes a bound itself: the last hundredth of the interval counts as the bound.
BOUND_SHARE = 0.01


def build_report(
    *,
    name: str,
    seed: int,
    recipe_hash: str,
    versions: Mapping[str, str],
    device: str,
    dtype: str,
    base: BaseModelFacts,
    vectors: Sequence[VectorFacts],
    search: SearchFacts,
    dev: Scores,
    held_out: Scores,
    timings: Mapping[str, float],
    yaml: str,
    portable_yaml: str | None,
    portable_reason: str | None,
    command: str,
    license: str,
    language: Sequence[str] = (),
    repo: str | None = None,
    private: bool = True,
    model_dir: str | None = None,
    card_path: str | None = None,
    trials: Sequence[TrialFacts] = (),
    analysis: Mapping[str, Any] | None = None,
    lighteval_tasks: Mapping[str, str] | None = None,
    n_resamples: int = 10_000,
) -> ReportData:
    """Compare the winner with the baselines and put everything into one record.

    Args:
        dev: Model -> task -> per-sample scores on the dev set, for ``winner`` and whatever baselines were trials.
        held_out: The same on the held-out set, for ``winner``, ``base_model`` and every other baseline.
        portable_reason: Why there is no portable YAML; None where there is one.
        lighteval_tasks: Held-out task -> name of the stock lighteval task that it is.
        (the others): As in ``ReportData`` and its parts. ``VectorFacts.at_bound`` is worked out here.

    Raises:
        TaskError: Scores are missing or stand on different samples.
    """
    if WINNER not in dev:
        raise TaskError("The dev scores lack the winner; run the search first.")
    dev = _on_common_samples(dev)
    report = ReportData(
        name=name,
        seed=seed,
        recipe_hash=recipe_hash,
        versions=dict(sorted(versions.items())),
        device=device,
        dtype=dtype,
        base=base,
        vectors=tuple(
            replace(vector, at_bound=bound_reached(vector.weight, *search.intervals[vector.name]))
            for vector in sorted(vectors, key=lambda vector: vector.name)
        ),
        search=search,
        tasks={"dev": _task_facts(dev, {}), "held_out": _task_facts(held_out, lighteval_tasks or {})},
        scores={"dev": _all_scores(dev), "held_out": _all_scores(held_out)},
        comparison=compare(held_out, dev, seed=seed, n_resamples=n_resamples),
        timings=dict(sorted(timings.items())),
        yaml=yaml,
        portable_yaml=portable_yaml,
        portable_reason=portable_reason,
        command=command,
        license=license,
        language=tuple(language),
        repo=repo,
        private=private,
        model_dir=model_dir,
        card_path=card_path,
        trials=tuple(sorted(trials, key=lambda trial: trial.number)),
        analysis=dict(sorted((analysis or {}).items())),
        mixtures=_mixtures(held_out, seed, n_resamples),
    )
    return replace(report, relative_gains=relative_gains(report))


def bound_reached(weight: float, low: float, high: float) -> Literal["low", "high"] | None:
    """Which end of its interval a weight lies at: within a hundredth of the interval's width."""
    near = BOUND_SHARE * (high - low)
    if weight <= low + near:
        return "low"
    return "high" if weight >= high - near else None


def primary_score(report: ReportData, part: Part, model: str, task: str) -> Score:
    """The score of a model on a task in the task's primary metric."""
    return report.scores[part][model][task][report.tasks[part][task].metric]


def _mixtures(held_out: Scores, seed: int, n_resamples: int) -> BaselineComparison | None:
    """The mixture at the shares of the weights against the uniform one, by the winner's own paired bootstrap."""
    if not {DATA_MIXTURE, OPTIMISED_MIXTURE} <= held_out.keys():
        return None
    models = {WINNER: held_out[OPTIMISED_MIXTURE], DATA_MIXTURE: held_out[DATA_MIXTURE], BASE: held_out[BASE]}
    return compare(models, seed=seed, n_resamples=n_resamples).baselines[DATA_MIXTURE]


def _on_common_samples(dev: Scores) -> dict[str, dict[str, TaskScores]]:
    """Cut each task to the prefix that all models were scored on: the last rung is taken by few of them.

    Samples have one fixed order, so prefixes of one task are the same samples.
    """
    shortest: dict[str, int] = {}
    for scores in dev.values():
        for task, task_scores in scores.items():
            n = len(task_scores.metrics[task_scores.primary].values)
            shortest[task] = min(n, shortest.get(task, n))
    return {
        model: {task: task_scores.head(shortest[task]) for task, task_scores in scores.items()}
        for model, scores in dev.items()
    }


def _task_facts(scores: Scores, lighteval_tasks: Mapping[str, str]) -> dict[str, TaskFacts]:
    facts = {}
    for task, task_scores in sorted(scores[WINNER].items()):
        samples = task_scores.metrics[task_scores.primary]
        stock = lighteval_tasks.get(task)
        facts[task] = TaskFacts(task_scores.primary, samples.higher_is_better, len(samples.values), stock)
    return facts


def _all_scores(scores: Scores) -> dict[str, dict[str, dict[str, Score]]]:
    return {
        model: {
            task: {metric: samples.score() for metric, samples in sorted(task_scores.metrics.items())}
            for task, task_scores in sorted(floored(dict(tasks)).items())
        }
        for model, tasks in sorted(scores.items())
    }
