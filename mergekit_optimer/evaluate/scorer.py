"""The scorer: one live model, its tasks built once, scored as often as its weights change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mergekit_optimer.errors import TaskError
from mergekit_optimer.evaluate.lighteval_compat import contained
from mergekit_optimer.evaluate.metrics import slope_coefficients, task_scores
from mergekit_optimer.evaluate.plan import budget_for, gradient_budget
from mergekit_optimer.machine import memory_named
from mergekit_optimer.scores import TaskScores
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
            self._budget = budget_for(where.type, config.get_text_config().vocab_size, batch_tokens)
            was_training = model.training
            self._model = model
            try:
                self._live = LiveModel.around(model, str(tokenizer_dir), self._budget)
                self._tasks = scorable_tasks(tasks)
                with torch.no_grad(), memory_named("scoring"):
                    model.eval()
                    self._live.learn([doc for task in self._tasks if task.category == "LOGPROBS" for doc in task.docs])
            finally:
                model.train(was_training)

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
        with self._scoring():
            scored: dict[str, TaskScores] = {}
            for category, tasks in self._by_category(slice(start, n_samples)):
                responses = iter(self._responses(category, [doc for _, docs in tasks for doc in docs]))
                for task, docs in tasks:
                    scored[task.name] = task_scores(task, docs, [next(responses) for _ in docs])
        return {task.name: scored[task.name] for task in self._tasks if task.name in scored}

    def forward_only(self) -> None:
        """Run the forward passes of ``score()`` and nothing else: what a trial cannot cost less than.

        For a benchmark. Of tasks that generate, all of the generation is run.
        """
        with self._scoring():
            for category, tasks in self._by_category(slice(None)):
                docs = [doc for _, docs in tasks for doc in docs]
                if category == "GENERATIVE":
                    self._responses(category, docs)
                else:
                    self._live.run_forward(docs)

    def backward(self, shares: Mapping[str, float], n_samples: int | None, start: int = 0) -> float:
        """Add the gradient of sum_t shares[t] f_t to the parameters that require one, batch by batch.

        f_t is the task's primary metric, negated where lower is better. What a batch adds is added at once, so that
        hooks on the parameters may take and drop it.

        Args:
            shares: Factor of each task; tasks not named are not run.
            n_samples: Stop before this sample of each task; None takes all.
            start: First sample.

        Returns:
            The sum, as ``score`` gives it; NaN where the model's logits are not finite.

        Raises:
            InfrastructureError: Memory or the device gave out.
            TaskError: A task is unknown, or its primary metric is no log-likelihood of given tokens.
        """
        docs, coefficients = slope_coefficients(self._tasks, shares, slice(start, n_samples))
        config = cast("Any", self._model.config).get_text_config()
        sizes = config.hidden_size, config.num_hidden_layers
        parameter = next(self._model.parameters())
        budget = gradient_budget(self._budget, parameter.device.type, *sizes, parameter.dtype.itemsize)
        with self._scoring():
            return self._live.backward(docs, coefficients, budget)

    @contextmanager
    def _scoring(self) -> Iterator[None]:
        """The state the model is run in, and what is put back afterwards."""
        import torch

        was_training = self._model.training
        with contained(), memory_named("scoring"), torch.no_grad():
            self._model.eval()
            try:
                yield
            finally:
                self._model.train(was_training)

    def _by_category(self, part: slice) -> Iterator[tuple[str, list[tuple[ScorableTask, list[Any]]]]]:
        """All tasks of a kind in one go: samples of like length share a batch whatever task they are of."""
        for category in sorted({task.category for task in self._tasks}):
            tasks = [(task, task.docs[part]) for task in self._tasks if task.category == category]
            yield category, [(task, docs) for task, docs in tasks if docs]

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


def _without_reasoning(text: str) -> str:
    from lighteval.utils.utils import remove_reasoning_tags

    kept: str = remove_reasoning_tags(text=text, tag_pairs=[("<think>", "</think>")])
    return kept
