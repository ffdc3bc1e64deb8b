"""A study's workers and its place, opened as the options say and closed whatever happens."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergekit_optimer import __version__
from mergekit_optimer.files import content_hash, write_bytes
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.means import WORKER_ENVIRONMENT, Means, worker_environments
from mergekit_optimer.pipeline.trial import MergeAndScorer
from mergekit_optimer.recipe import Recipe
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search import Database, InProcess, JournalFile, Measured, Slopes, StudyPlace, Workers
from mergekit_optimer.tasks import PreparedTask
from mergekit_optimer.workers import Backend, Crew, LocalProcesses, RayActors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drive:
    """What a study is driven with.

    Attributes:
        load: Loads what scores, so that what cannot be loaded is said before the first trial.
    """

    workers: Workers
    slopes: Slopes
    load: Callable[[], None]


@contextmanager
def opened_workers(job: Job, tasks: list[PreparedTask], means: Means) -> Iterator[Drive]:
    """Start the workers; they end with the block.

    Raises:
        WorkerError: They cannot be had.
    """
    if means.is_alone:
        scorer = MergeAndScorer(job, tasks)
        # The study writes each trial's merge.yaml itself, before it is scored: not once more for each part of it.
        alone = InProcess(lambda weights, _trial_dir, start, stop: scorer(weights, None, start, stop))
        yield Drive(alone, scorer.slopes, scorer.load)
        return
    sent = SentJob(job.recipe, job.run.root, job.device, [SentTask.of(one) for one in tasks], means.ray is not None)
    # Before any process is there: what is wrong with the pool must leave none behind.
    identity = sent.identity(job)
    log.info("starting %d workers, each of which loads base, pool and dev samples", means.n_workers)
    backend: Backend
    if means.ray is None:
        backend = LocalProcesses(sent, worker_environments(means, job.device))
    else:
        n_gpus = means.gpus_per_worker if job.device.startswith("cuda") else 0
        backend = RayActors(sent, means.n_workers, n_gpus, WORKER_ENVIRONMENT)
    crew = Crew(backend, identity, in_flight=means.in_flight, timeout_s=means.patience_s)
    try:
        yield Drive(crew, crew.slopes, crew.load)
    finally:
        crew.close()


@contextmanager
def opened_place(job: Job, means: Means) -> Iterator[StudyPlace]:
    """Where the study is kept; left with the block."""
    place: StudyPlace = JournalFile(job.run.journal_path)
    if means.storage is not None:
        place = Database(means.storage, job.recipe.name)
    try:
        yield place
    finally:
        place.close()


@dataclass(frozen=True)
class SentTask:
    """A prepared task with what its files hold, so that it is scored alike where they are not."""

    task: PreparedTask
    files: dict[str, bytes]

    @classmethod
    def of(cls, task: PreparedTask) -> SentTask:
        paths = [*(task.folder.iterdir() if task.folder else ()), *([task.file] if task.file else ())]
        return cls(task, {path.name: path.read_bytes() for path in sorted(paths) if path.is_file()})

    def unpacked(self, folder: Path) -> PreparedTask:
        """The task with its files in a folder of this machine."""
        place = folder / self.task.name
        for name, content in self.files.items():
            write_bytes(place / name, content)
        file = place / self.task.file.name if self.task.file else None
        return replace(self.task, folder=place if self.task.folder else None, file=file)


@dataclass(frozen=True)
class SentJob:
    """What a worker is sent: where things are. Called there, it makes the worker's scorer.

    Attributes:
        checks_files: Whether base and pool are compared by content with the driver's: on other machines.
    """

    recipe: Recipe
    run_dir: Path
    device: str
    tasks: list[SentTask]
    checks_files: bool

    def __call__(self) -> WorkerScorer:
        return WorkerScorer(self)

    def identity(self, job: Job) -> str:
        """What two processes must have in common to score alike."""
        files = [job.base_fingerprint, job.pool_files] if self.checks_files else []
        return content_hash([__version__, sorted(job.recipe.pool), *files])


class WorkerScorer:
    """A worker's scorer, as ``workers.Scorer`` says; it writes nothing into the run folder."""

    def __init__(self, sent: SentJob) -> None:
        self._sent = sent
        self._job = Job(sent.recipe, RunDir(sent.run_dir), sent.device)
        self._loaded: MergeAndScorer | None = None

    @property
    def _scorer(self) -> MergeAndScorer:
        if self._loaded is None:
            # Read once and gone: what is left of a worker that is killed is nothing.
            with tempfile.TemporaryDirectory(prefix="mergekit-optimer-") as folder:
                tasks = [task.unpacked(Path(folder)) for task in self._sent.tasks]
                loaded = MergeAndScorer(self._job, tasks)
                loaded.load()
            self._loaded = loaded
        return self._loaded

    def load(self) -> str:
        identity = self._sent.identity(self._job)
        self._scorer  # noqa: B018
        return identity

    def score(self, weights: Mapping[str, float], start: int, stop: int) -> Measured:
        return self._scorer(weights, None, start, stop)

    def score_part(self, weights: Mapping[str, float], start: int, stop: int, index: int, count: int) -> Any:
        return self._scorer.score_part(weights, None, start, stop, index, count)

    def join_parts(self, start: int, stop: int, parts: list[Any]) -> Measured:
        return self._scorer.join_parts(start, stop, parts)

    def slopes(self, weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:
        return self._scorer.slopes(weights, n_samples)
