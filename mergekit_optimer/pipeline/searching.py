"""The search as a stage: the study with its workers, in its place, and the winner it leaves."""

from __future__ import annotations

import gc
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import RunFolderError, SearchError
from mergekit_optimer.files import content_hash, read_json, write_csv, write_json
from mergekit_optimer.pipeline.adopt import link_pool
from mergekit_optimer.pipeline.driving import opened_place, opened_workers
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.means import Means
from mergekit_optimer.pipeline.stages import dev_tasks
from mergekit_optimer.pipeline.trial import MergeAndScorer
from mergekit_optimer.pipeline.vector_sources import make_missing_vectors
from mergekit_optimer.recipe import Recipe
from mergekit_optimer.runs import RunDir, has_same_recipe
from mergekit_optimer.search import (
    Search,
    SearchResult,
    TrialRecord,
    Watch,
    is_same_storage,
    move_trials,
    pareto_data,
    storage_label,
    wait_until_whole,
)
from mergekit_optimer.tasks import PreparedTask

log = logging.getLogger(__name__)

IN_PROCESS = Means()


def search_weights(
    job: Job, rank_only: bool = False, watch: Watch | None = None, means: Means = IN_PROCESS
) -> dict[str, Any]:
    """Search the merge weights on the dev set.

    Args:
        rank_only: Rank the trials taken over from another study, run none.
        watch: Told of every trial that ends; None: it has a line in the log.
        means: Workers and storage.

    Returns:
        What winner.json holds: the winner's number, value and weights, and the study in numbers.

    Raises:
        InfrastructureError: The live model does not fit into memory.
        SearchError: There is nothing to rank, or the study cannot go on.
        WorkerError: The workers cannot be had.
    """
    adopted = read_json(job.run.adopted_path) if job.run.adopted_path.exists() else {"origin": None, "trials": []}
    if rank_only and not adopted["trials"]:
        raise SearchError("There are no scored trials to rank: name a finished run with --from.")
    keep_in_one_place(job.run, means)
    make_missing_vectors(job)
    tasks = dev_tasks(job)
    scored_with = _scored_with(job, tasks)
    identity = study_identity(job, scored_with)
    inputs = content_hash([identity, job.recipe.search.n_trials, adopted["origin"], rank_only])
    with job.stage("search", inputs, job.run.winner_path) as wanted:
        if wanted:
            trials = [TrialRecord.from_json(trial) for trial in adopted["trials"]]
            result = _search(job, job.run, tasks, scored_with, means, watch, trials, adopted["origin"], rank_only)
            write_json(job.run.winner_path, result.to_json() | {"scored_with": scored_with})
            log.info("winner: trial #%d  dev %.4f", result.winner.number, result.winner.value)
            # The winner is merged from the same files next: mapped by both, they would count twice. A model is a web
            # of cycles, which only the collector takes apart.
            gc.collect()
    summary: dict[str, Any] = read_json(job.run.winner_path)
    if job.recipe.search.objective.pareto_tasks:
        _write_front(job, summary)
    return summary


def help_search(job: Job, watch: Watch | None, means: Means) -> None:
    """Work at a shared study whose run folder another process holds; what it writes goes with it.

    Raises:
        As search_weights.
    """
    with opened_place(job, means) as place:
        # Its vectors are made by then, and the trials of --from are there.
        wait_until_whole(place, job.recipe.name, lambda: _is_free(job.run))
    with tempfile.TemporaryDirectory(prefix="mergekit-optimer-") as folder:
        own = RunDir(Path(folder))
        tasks = dev_tasks(replace(job, run=own))
        result = _search(job, own, tasks, _scored_with(job, tasks), means, watch)
        log.info("winner: trial #%d  dev %.4f", result.winner.number, result.winner.value)


def study_identity(job: Job, scored_with: dict[str, Any]) -> str:
    """What decides a trial's score and a proposal; a longer study is the same study."""
    return content_hash([*scored_with.values(), _deciding_section(job), job.recipe.seed])


def _deciding_section(job: Job) -> dict[str, Any]:
    """The search section without what may change within a study."""
    section: dict[str, Any] = job.recipe.search.model_dump(mode="json", exclude={"n_trials"})
    return section


def _scored_with(job: Job, tasks: list[PreparedTask]) -> dict[str, Any]:
    samples = {task.name: task.content_hash for task in tasks}
    return {"base": job.base_fingerprint, "pool": job.pool_files, "samples": samples}


def _search(
    job: Job,
    run: RunDir,
    tasks: list[PreparedTask],
    scored_with: dict[str, Any],
    means: Means,
    watch: Watch | None,
    adopted: Sequence[TrialRecord] = (),
    origin: str = "",
    rank_only: bool = False,
) -> SearchResult:
    """Run the study; trials are written to ``run``."""
    known = {"base model": "base", "vector pool": "pool", "dev samples": "samples"}
    parts = {name: content_hash(scored_with[key]) for name, key in known.items()}
    parts |= {"search section": content_hash(_deciding_section(job)), "seed": content_hash(job.recipe.seed)}
    scoring = IN_PROCESS if rank_only else means
    with opened_place(job, means) as place, opened_workers(job, tasks, scoring) as drive:
        study = Search(
            job.recipe, run, job.pool.names, study_identity(job, scored_with), drive.workers, drive.slopes, watch,
            place=place, parts=parts, write_trial=MergeAndScorer(job, tasks).write_yaml,
        )  # fmt: skip
        if adopted:
            study.adopt(list(adopted), origin)
        if not rank_only:
            drive.load()
        return study.run(rank_only=rank_only)


def _write_front(job: Job, summary: dict[str, Any]) -> None:
    """Write the Pareto front of a finished study, with a row for each trial as CSV."""
    records = [TrialRecord.from_json(read_json(job.run.trial_dir(n) / "scores.json")) for n in summary["trials"]]
    front = pareto_data(job.recipe.search, records, summary["winner"]["number"])
    path, names, tasks = job.run.analysis_path("pareto"), sorted(summary["winner"]["weights"]), front["tasks"]
    write_json(path, front)
    on_front = {row["number"] for row in front["front"]}
    rows = [
        [row["number"], int(row["number"] in on_front), int(row["kept"]), *(row["weights"][name] for name in names)]
        + [row["values"][task] for task in tasks]
        for row in front["trials"]
    ]
    header = ["trial", "on_front", "kept", *(f"weight {name}" for name in names), *tasks]
    write_csv(path.with_suffix(".csv"), header, rows)
    log.info("Pareto front of %s: %d of %d trials, %s", ", ".join(tasks), len(on_front), len(rows), path)


def _is_free(run: RunDir) -> bool:
    try:
        with run.locked():
            return True
    except RunFolderError:
        return False


def keep_in_one_place(run: RunDir, means: Means) -> None:
    """Check that a run's study is where it was, and note where a new one is: two places would be two studies.

    Raises:
        SearchError: It is elsewhere.
    """
    noted = _noted_place(run, means)
    if means.storage is not None:
        _check_no_journal(run, noted)
        if noted is None:
            _note_place(run, storage_label(means.storage))


def _check_no_journal(run: RunDir, noted: str | None) -> None:
    if noted is None and run.journal_path.exists() and run.journal_path.stat().st_size:
        raise SearchError(
            f"{run.root} has a study of its own, in {run.journal_path.name}. Take its trials along with --from "
            f"{run.root}, or give another --run-dir."
        )


def _note_place(run: RunDir, label: str) -> None:
    """Note where a run's study is; the label holds no password."""
    write_json(run.storage_path, {"storage": label})


def _noted_place(run: RunDir, means: Means) -> str | None:
    """The database that holds a run's study; None where its folder does, or nothing yet.

    Raises:
        SearchError: It is another than --storage.
    """
    if not run.storage_path.exists():
        return None
    noted = str(read_json(run.storage_path)["storage"])
    if means.storage is None or not is_same_storage(means.storage, noted):
        raise SearchError(f"The study of {run.root} is kept in {noted}; give it as --storage again.")
    return noted


def is_same_study(recipe: Recipe, source_dir: Path) -> bool:
    """Whether a run is of this very recipe, so that its study can go on elsewhere; it need not be finished."""
    source = RunDir(source_dir.resolve())
    return source.manifest_path.exists() and has_same_recipe(source, recipe)


def move_study(job: Job, source_dir: Path, means: Means) -> None:
    """Take a run's study into the database, and its pool into this run; again, it changes nothing.

    Raises:
        SearchError: It is another study, or one of the runs has its own elsewhere.
        RunFolderError: Another process holds that run.
    """
    source = RunDir(source_dir.resolve())
    _noted_place(source, means)
    if source.root != job.run.root:
        _check_no_journal(job.run, _noted_place(job.run, means))
    held: AbstractContextManager[None] = nullcontext() if source.root == job.run.root else source.locked()
    with held, opened_place(job, means) as place:
        if source.root != job.run.root:
            link_pool(job, source)
        tasks = dev_tasks(job)
        identity = study_identity(job, _scored_with(job, tasks))
        move_trials(job.recipe, source, place, identity, lambda: _note_place(job.run, place.label))
        # Also where the trials were there before.
        _note_place(job.run, place.label)


@contextmanager
def held(run: RunDir, means: Means) -> Iterator[bool]:
    """Hold the run folder; where another process does and the study is shared, yield False instead of refusing.

    Raises:
        RunFolderError: Another process holds it, and the study is in its folder.
    """
    with ExitStack() as stack:
        is_ours = True
        try:
            stack.enter_context(run.locked())
        except RunFolderError:
            if means.storage is None:
                raise
            is_ours = False
        yield is_ours
