"""What the model gave for a task's samples -> scores; and what a log-likelihood counts for in them. Runs no model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mergekit_optimer.errors import TaskError
from mergekit_optimer.recipe.tasks import LOG_LIKELIHOODS
from mergekit_optimer.scores import MetricSamples, TaskScores

if TYPE_CHECKING:
    from mergekit_optimer.evaluate.lighteval_tasks import ScorableTask


def task_scores(task: ScorableTask, docs: list[Any], responses: list[Any]) -> TaskScores:
    """Compute a task's metrics per sample with lighteval's own code; NaN where the model's logits are not finite.

    Raises:
        TaskError: A metric that is not ours failed.
    """
    from lighteval.metrics import apply_metric

    from mergekit_optimer.evaluate.lighteval_tasks import sample_value

    values: dict[str, list[tuple[float, float]]] = {name: [] for name in task.kinds}
    try:
        for response, given in zip(responses, apply_metric(responses, docs, task.metrics), strict=True):
            # An argmax over NaN is a choice like any other; accuracy must not come of it.
            sound = all(map(math.isfinite, response.logprobs))
            for name, pairs in values.items():
                value, weight = sample_value(given[name])
                pairs.append((value if sound else math.nan, weight))
    except Exception as error:
        if not task.stock:
            raise
        # The metric is lighteval's or the user's code and may raise anything.
        raise TaskError(
            f"Task '{task.name}': metric '{task.primary}' gives no number per sample ({type(error).__name__}: {error})."
        ) from error
    metrics = {
        name: MetricSamples(tuple(v for v, _ in pairs), tuple(w for _, w in pairs), *task.kinds[name])
        for name, pairs in values.items()
    }
    return TaskScores(metrics, task.primary)


def slope_coefficients(
    tasks: Sequence[ScorableTask], shares: Mapping[str, float], part: slice
) -> tuple[list[Any], list[float]]:
    """Return samples and, for each, d value / d log p(gold choice), where value = sum_t shares[t] f_t.

    f_t is the task's primary metric over the samples of ``part``, negated where lower is better: for bits per byte
    -bits / bytes of all samples together, for gold_ll the mean over samples of nats per byte.

    Raises:
        TaskError: A task is unknown, or its primary metric is no such sum.
    """
    by_name = {task.name: task for task in tasks}
    docs: list[Any] = []
    coefficients: list[float] = []
    for name, share in sorted(shares.items()):
        if name not in by_name:
            raise TaskError(f"There is no task '{name}', only {', '.join(sorted(by_name))}.")
        task = by_name[name]
        if task.stock or task.primary not in LOG_LIKELIHOODS:
            raise TaskError(
                f"Task '{name}' is measured by {task.primary}, which has no gradient; use a task of kind: text, or "
                "kind: choice with metric: gold_ll."
            )
        chosen = task.docs[part]
        if not chosen:
            continue
        sizes = [len(doc.choices[doc.gold_index].encode()) for doc in chosen]
        if task.primary == "bits_per_byte":
            factors = [share / math.log(2.0) / sum(sizes)] * len(chosen)
        else:
            factors = [share / size / len(chosen) for size in sizes]
        docs += chosen
        coefficients += factors
    return docs, coefficients
