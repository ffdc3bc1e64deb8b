"""One trial: merge a weight vector into the one live model, score it, or follow its slope. Writes no model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mergekit_optimer.errors import InfrastructureError, NotFiniteError
from mergekit_optimer.evaluate import PartScores, Scorer, load_model
from mergekit_optimer.files import write_text
from mergekit_optimer.machine import drop_unused_memory, out_of_memory
from mergekit_optimer.merge import merge_yaml
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.resident import ResidentMerge, check_memory
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.search import Measured, unit
from mergekit_optimer.tasks import PreparedTask

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class MeasuredPart:
    """What one of several processes gave to a weight vector's score, and the seconds it took."""

    weights: dict[str, float]
    scores: PartScores
    merge_s: float
    score_s: float


class MergeAndScorer:
    """The live model, the pool beside it, and the scorer: loaded once, for as many weight vectors as are asked for."""

    def __init__(self, job: Job, tasks: list[PreparedTask]) -> None:
        self._job, self._tasks = job, tasks
        # Weights that the live model holds; None where it holds something else.
        self._held: dict[str, float] | None = None
        # The base's scores, where its trial was run by this process.
        self._base: dict[str, TaskScores] = {}

    @cached_property
    def _live(self) -> torch.nn.Module:
        """The model whose weights every trial overwrites: the base, in the base's dtype."""
        job = self._job
        # A search before this one may have filled a GPU with its copies.
        drop_unused_memory()
        check_memory(job.base.path, job.pool.folders, job.device)
        return load_model(job.base.path, job.device, job.recipe.base_model.trust_remote_code)

    @cached_property
    def _resident(self) -> ResidentMerge:
        return ResidentMerge(self._live, self._job.base.path, self._job.pool.folders)

    @cached_property
    def _scorer(self) -> Scorer:
        job = self._job
        return self._with_room(lambda: Scorer(self._live, job.base.path, self._tasks, device=job.device))

    def load(self) -> None:
        """Load model, pool and tasks now, so that what cannot be loaded is said before the first trial.

        Raises:
            InfrastructureError: They do not fit into memory.
            MergeError: The live model's parameters are not those of base and vectors.
        """
        self._resident, self._scorer  # noqa: B018

    def __call__(self, weights: Mapping[str, float], trial_dir: Path | None, start: int, stop: int) -> Measured:
        """Score samples start..stop of every task at these weights.

        Args:
            trial_dir: Gets the merge.yaml of the same merge; None where somebody else writes it.
        """
        if trial_dir is not None:
            self.write_yaml(trial_dir, weights)
        self.load()
        started = time.monotonic()
        self._merge(weights)
        merged = time.monotonic()
        scores = self._with_room(lambda: self._scorer.score(stop, start=start))
        self._keep_base(weights, scores, start)
        return Measured(scores, merged - started, time.monotonic() - merged)

    def score_part(
        self, weights: Mapping[str, float], trial_dir: Path | None, start: int, stop: int, index: int, count: int
    ) -> MeasuredPart:
        """Do part ``index`` of ``count`` of what a call does, so that several processes score one weight vector.

        Args:
            weights: As in a call.
            trial_dir: Gets the merge.yaml, from part 0 alone; None where somebody else writes it.
            start: As in a call.
            stop: As in a call.
            index: Which part, from 0; every process holds a whole model.
            count: How many there are.
        """
        if trial_dir is not None and index == 0:
            self.write_yaml(trial_dir, weights)
        self.load()
        started = time.monotonic()
        self._merge(weights)
        merged = time.monotonic()
        scores = self._with_room(lambda: self._scorer.score_part(stop, start, index, count))
        return MeasuredPart(dict(weights), scores, merged - started, time.monotonic() - merged)

    def join_parts(self, start: int, stop: int, parts: Sequence[MeasuredPart]) -> Measured:
        """Join all parts into what a call would have given, bit for bit; the model is neither merged nor run.

        Returns:
            Of the seconds, those of the slowest part, which the others wait for.

        Raises:
            ValueError: A part is missing, there twice, or of other weights or samples.
        """
        if any(part.weights != parts[0].weights for part in parts):
            raise ValueError("the parts of a score must be of the same weights")
        self.load()
        started = time.monotonic()
        scores = self._scorer.join_parts(stop, start, [part.scores for part in parts])
        self._keep_base(parts[0].weights, scores, start)
        score_s = max(part.score_s for part in parts) + time.monotonic() - started
        return Measured(scores, max(part.merge_s for part in parts), score_s)

    def _keep_base(self, weights: Mapping[str, float], scores: dict[str, TaskScores], start: int) -> None:
        if not any(weights.values()) and start == 0:
            self._base = scores

    def write_yaml(self, trial_dir: Path, weights: Mapping[str, float]) -> None:
        """Write the trial's merge for mergekit, unless it is there."""
        job, path = self._job, trial_dir / "merge.yaml"
        text = merge_yaml(str(job.base.path), job.ingredients, weights, job.dtype)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)

    def score_weights(self, weights: Mapping[str, float], n_samples: int | None = None) -> dict[str, TaskScores]:
        """Score a weight vector on the first n samples of each task; None: on all."""
        self.load()
        self._merge(weights)
        return self._with_room(lambda: self._scorer.score(n_samples))

    def score_folder(self, model_dir: Path) -> dict[str, TaskScores]:
        """Score a model folder on all samples, in the base's dtype."""
        job = self._job
        # While it still holds the base: that is how its tensors are found.
        self.load()
        # In host memory, and gone before the scoring: a device may have no room for a second model.
        fresh = load_model(model_dir, "cpu", job.recipe.base_model.trust_remote_code)
        self._held = None
        self._live.load_state_dict(fresh.state_dict())
        del fresh
        return self._with_room(self._scorer.score)

    def score_collapsed(self) -> dict[str, TaskScores]:
        """Score a model that is not finite: its merge gave no folder."""
        self.load()
        self._collapse()
        return self._with_room(self._scorer.score)

    def slopes(self, weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:
        """Value and slope of the objective's log-likelihoods on the first n samples of each task.

        Returns:
            sum_t c_t f_t over the tasks that are log-likelihoods, with f_t the primary metric negated where lower is
            better and c_t its weight in the objective, and d value / d w_k for each vector. NaN where the merge is not
            finite.
        """
        self.load()
        shares = self._shares
        self._merge(weights)

        def follow() -> tuple[float, dict[str, float]]:
            with self._resident.slopes() as slopes:
                value = self._scorer.backward(shares, n_samples)
            return value, dict(slopes)

        return self._with_room(follow)

    @cached_property
    def _shares(self) -> dict[str, float]:
        """Weight of each task with a slope, in the objective's own unit."""
        shares = self._job.recipe.slope_tasks
        if not self._job.recipe.search.objective.gain_over_base:
            return shares
        if not self._base:
            self._merge(dict.fromkeys(self._job.pool.names, 0.0))
            self._base = self._with_room(lambda: self._scorer.score(self._job.recipe.search.rungs[0].n_samples))
        return {name: share / unit(self._base[name]) for name, share in shares.items()}

    def _merge(self, weights: Mapping[str, float]) -> None:
        """Bring the live model to these weights, unless it is there; a merge that is not finite collapses it."""
        if self._held == dict(weights):
            return
        self._held = None
        try:
            self._with_room(lambda: self._resident.merge(weights))
        except NotFiniteError as error:
            log.info("%s", error)
            self._collapse()
        self._held = dict(weights)

    def _with_room(self, work: Callable[[], T]) -> T:
        """Do a trial's work; where a GPU has no memory for it, once more without the copies that it keeps."""
        try:
            return work()
        except InfrastructureError as error:
            if not out_of_memory(error) or not self._resident.let_go():
                raise
        drop_unused_memory()
        log.warning("The GPU's memory ran out: from now on base and vectors are sent to it for each trial.")
        return work()

    def _collapse(self) -> None:
        """Make the live model what the merge is: without a finite value, so that it is scored as collapsed."""
        self._held = None
        for parameter in self._live.parameters():
            parameter.data.fill_(float("nan"))
