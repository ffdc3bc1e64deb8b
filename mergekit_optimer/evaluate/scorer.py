"""The scorer: one live model, its tasks built once, scored as often as its weights change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer.errors import TaskError
from mergekit_optimer.evaluate.lighteval_compat import contained
from mergekit_optimer.evaluate.loglikelihood import batch_tokens_for
from mergekit_optimer.machine import memory_named
from mergekit_optimer.scores import MetricSamples, TaskScores
from mergekit_optimer.tasks import PreparedTask

if TYPE_CHECKING:
    import torch

    from mergekit_optimer.evaluate.lighteval_tasks import ScorableTask


class Scorer:
    """Scores a model whose parameters may change in place between calls; nothing of an earlier call is kept."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer_dir: Path,
        tasks: list[PreparedTask],
        *,
        device: str,
        batch_tokens: int | None = None,
    ) -> None:
        """Import lighteval and build its tasks, once.

        Args:
            model: A transformers causal language model on ``device``. Neither copied nor moved.
            tokenizer_dir: Folder of its tokenizer.
            tasks: From ``prepare_tasks``, with this tokenizer.
            device: Where the model is.
            batch_tokens: Tokens run at once, padding included; None chooses by device and vocabulary.

        Raises:
            TaskError: A task cannot be scored with this model.
        """
        import torch

        where = next(model.parameters()).device
        if torch.device(device).type != where.type:
            raise ValueError(f"the model is on {where}, not on {device}")
        with contained():
            from mergekit_optimer.evaluate.lighteval_tasks import scorable_tasks
            from mergekit_optimer.evaluate.live_model import LiveModel

            config: Any = model.config
            tokens = batch_tokens or batch_tokens_for(where.type, config.get_text_config().vocab_size)
            was_training = model.training
            self._live = LiveModel.around(model, str(tokenizer_dir), tokens)
            model.train(was_training)
            self._tasks = scorable_tasks(tasks)
        self._model = model

    @property
    def n_samples(self) -> dict[str, int]:
        """How many samples each task has."""
        return {task.name: len(task.docs) for task in self._tasks}

    def score(self, n_samples: int | None = None, start: int = 0) -> dict[str, TaskScores]:
        """Score the model as its weights are now.

        Args:
            n_samples: Stop before this sample of each task; None takes all.
            start: First sample; so ``score(300, start=100)`` continues ``score(100)``.

        Returns:
            Scores by task name with per-sample values, in the tasks' fixed order. A task that has no sample in the
            range is left out. Where the model's logits are not finite the values are NaN: see ``scores.floored``.

        Raises:
            InfrastructureError: Memory or the device gave out.
            TaskError: A user's metric failed.
        """
        was_training = self._model.training
        with contained(), memory_named("scoring"):
            self._model.eval()
            try:
                return self._score(slice(start, n_samples))
            finally:
                self._model.train(was_training)

    def _score(self, part: slice) -> dict[str, TaskScores]:
        import torch

        categories = sorted({task.category for task in self._tasks})
        scored: dict[str, TaskScores] = {}
        with torch.no_grad():
            for category in categories:
                # All tasks of a kind in one go: samples of like length share a batch whatever task they are of.
                tasks = [(task, task.docs[part]) for task in self._tasks if task.category == category]
                tasks = [(task, docs) for task, docs in tasks if docs]
                responses = iter(self._responses(category, [doc for _, docs in tasks for doc in docs]))
                for task, docs in tasks:
                    scored[task.name] = _task_scores(task, docs, [next(responses) for _ in docs])
        return {task.name: scored[task.name] for task in self._tasks if task.name in scored}

    def _responses(self, category: str, docs: list[Any]) -> list[Any]:
        if not docs:
            return []
        found: list[Any]
        if category == "GENERATIVE":
            if self._live.tokenizer.eos_token is None:
                raise TaskError("A task generates, but the tokenizer has no end-of-text token to stop at.")
            found = self._live.greedy_until(docs)
            for response in found:
                response.text_post_processed = [_without_reasoning(text) for text in response.text]
        else:
            found = self._live.loglikelihood(docs)
        return found


def check_tasks(tasks: list[PreparedTask]) -> None:
    """Check lighteval's own tasks (and a user's file) before any model: that they exist, load, and have the metric.

    Our own kinds are checked when they are prepared; without a lighteval task this costs nothing.

    Raises:
        TaskError: What is wrong with a task.
    """
    if any(task.kind == "lighteval" for task in tasks):
        with contained():
            from mergekit_optimer.evaluate.lighteval_tasks import scorable_tasks

            scorable_tasks(tasks)


def _task_scores(task: ScorableTask, docs: list[Any], responses: list[Any]) -> TaskScores:
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


def _without_reasoning(text: str) -> str:
    from lighteval.utils.utils import remove_reasoning_tags

    kept: str = remove_reasoning_tags(text=text, tag_pairs=[("<think>", "</think>")])
    return kept
