"""The scorer: one live model, its tasks built once, scored as often as its weights change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mergekit_optimer.evaluate.lighteval_compat import contained
from mergekit_optimer.evaluate.metrics import slope_coefficients, task_scores
from mergekit_optimer.evaluate.parts import PartScores, check_parts, in_order, share
from mergekit_optimer.evaluate.plan import budget_for, gradient_budget
from mergekit_optimer.machine import memory_named
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.tasks import PreparedTask

if TYPE_CHECKING:
    import torch


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
            return self._joined([self._part(n_samples, start, 0, 1)], n_samples, start)

    def score_part(self, n_samples: int | None, start: int, index: int, count: int) -> PartScores:
        """Run one part of what ``score`` runs, so that several processes score one model together.

        The parts share the batches of the whole range, none of which is cut: each sample's numbers come out of the
        very batch they would in ``score``. That holds for texts to be generated too, whose batches are lighteval's.
        The shares are balanced by tokens (a text that stops early makes its part lighter than was reckoned) and are
        the same in every process with this model, these tasks and the same kind of device. A part may be empty.

        Args:
            n_samples: As in ``score``.
            start: As in ``score``.
            index: Which part, from 0.
            count: How many there are.

        Raises:
            InfrastructureError: Memory or the device gave out.
            ValueError: There is no such part.
        """
        if not 0 <= index < count:
            raise ValueError(f"there is no part {index} of {count}")
        with self._scoring():
            return self._part(n_samples, start, index, count)

    def join_parts(self, n_samples: int | None, start: int, parts: Sequence[PartScores]) -> dict[str, TaskScores]:
        """Put all parts of a score together, without running the model: what ``score`` returns, bit for bit.

        Args:
            n_samples: As in ``score_part``.
            start: As in ``score_part``.
            parts: Each once, in any order, of the same weights.

        Raises:
            TaskError: A user's metric failed.
            ValueError: A part is missing, there twice, of other samples, or made of other batches.
        """
        check_parts(parts, n_samples, start)
        with self._scoring():
            return self._joined(parts, n_samples, start)

    def forward_only(self) -> None:
        """Run the forward passes of ``score()`` and nothing else: what a trial cannot cost less than.

        For a benchmark. Of tasks that generate, all of the generation is run.
        """
        with self._scoring():
            self._live.run_forward(self._docs("LOGPROBS", slice(None)))
            self._live.write(self._docs("GENERATIVE", slice(None)))

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
        sizes = config.vocab_size, config.hidden_size, config.num_hidden_layers
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

    def _part(self, n_samples: int | None, start: int, index: int, count: int) -> PartScores:
        likely, written = (self._docs(kind, slice(start, n_samples)) for kind in ("LOGPROBS", "GENERATIVE"))
        to_run: list[int] | None = None
        to_write: list[int] | None = None
        if count > 1:
            costs = self._live.batch_costs(likely)
            mine = share([*costs, *self._live.written_costs(written)], index, count)
            to_run = [number for number in mine if number < len(costs)]
            to_write = [number - len(costs) for number in mine if number >= len(costs)]
        likelihoods = self._live.log_likelihoods(likely, to_run)
        return PartScores(n_samples, start, index, count, *likelihoods, *self._live.write(written, to_write))

    def _joined(self, parts: Sequence[PartScores], n_samples: int | None, start: int) -> dict[str, TaskScores]:
        given = slice(start, n_samples)
        likely, written = self._docs("LOGPROBS", given), self._docs("GENERATIVE", given)
        n_requests = sum(len(self._live.requests(doc)) for doc in likely)
        sums = in_order([(part.requests, part.log_likelihoods) for part in parts], n_requests)
        asked = any(part.greedy for part in parts)
        matches = in_order([(part.requests, part.greedy) for part in parts], n_requests) if asked else []
        answers = in_order([(part.samples, part.answers) for part in parts], len(written))
        of_likely, of_written = iter(self._live.responses(likely, sums, matches)), iter(self._live.read(answers))
        scores = {}
        for task in self._tasks:
            if docs := task.docs[given]:
                responses = of_written if task.category == "GENERATIVE" else of_likely
                scores[task.name] = task_scores(task, docs, list(islice(responses, len(docs))))
        return scores

    def _docs(self, category: str, part: slice) -> list[Any]:
        """The samples of all tasks of a kind: those of like length share a batch whatever task they are of."""
        return [doc for task in self._tasks if task.category == category for doc in task.docs[part]]


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
