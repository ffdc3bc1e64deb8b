"""A finished run's pool and trials taken into a new run, for another objective: nothing is trained or scored again.

Reported for OptiMer (arXiv 2603.28858): one pool, searched again for another objective, without training.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.files import content_hash, link_folder, read_json, write_json
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.pins import read_pins
from mergekit_optimer.pipeline.stages import dev_tasks
from mergekit_optimer.recipe import Recipe
from mergekit_optimer.runs import RunDir, flatten
from mergekit_optimer.vectors import load_vector

log = logging.getLogger(__name__)

# What a study may have otherwise than the one whose trials it takes over; a trial's scores depend on none of it.
FREE = ("name", "search.objective", "search.n_trials", "search.sampler", "search.warm_starts", "search.race",
        "search.until_flat", "held_out", "publish")  # fmt: skip


def check_source(recipe: Recipe, source_dir: Path, device: str) -> None:
    """Check that the trials of a finished run stand for this recipe's: same base, pool, dev samples and intervals.

    To be called before a run folder is made for it, so that a refusal leaves none behind.

    Raises:
        RunFolderError: There is no finished study, or one of these differs.
    """
    source = RunDir(source_dir.resolve())
    if not source.manifest_path.exists() or not source.winner_path.exists():
        raise RunFolderError(f"{source.root} holds no finished study; run `mergekit-optimer search` there first.")
    before, now = flatten(source.manifest()["recipe"]), flatten(recipe.canonical())
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if fixed := [key for key in differing if not key.startswith(FREE)]:
        raise RunFolderError(
            f"The trials of {source.root} do not fit this recipe: {', '.join(fixed[:4])} differ. Restore them, or "
            "search without --from."
        )
    with tempfile.TemporaryDirectory() as folder:
        job = Job(read_pins(recipe, source), RunDir(Path(folder)), device)
        theirs = read_json(source.winner_path)["scored_with"]
        if job.base_fingerprint != theirs["base"]:
            raise RunFolderError(f"The base model is not the one that {source.root} was searched over; restore it.")
        for name, files in theirs["pool"].items():
            if load_vector(_vector_dir(job, source, name)).files != files:
                raise RunFolderError(
                    f"Vector '{name}' is not the one that the trials of {source.root} were merged from; restore it, or "
                    "search without --from."
                )
        for task in dev_tasks(job):
            if theirs["samples"][task.name] != task.content_hash:
                raise RunFolderError(
                    f"The dev samples of '{task.name}' are not those of {source.root}; its scores do not stand for "
                    "them. Search without --from."
                )


def _vector_dir(job: Job, source: RunDir, name: str) -> Path:
    """Where the new run will have a vector from: the recipe's place for it, else the finished run."""
    return job.vector(name).path if job.recipe.pool[name].delta else source.vector_dir(name)


def adopt_run(job: Job, source_dir: Path) -> None:
    """Take checkpoints, vectors and scored trials of a checked run into this one; again, it changes nothing.

    Checkpoints and vectors are linked, not copied, where the file system can. ``search_weights`` then ranks the trials
    by this recipe's objective before it runs any.

    Raises:
        RunFolderError: This run has a pool of its own, or trials of another study.
    """
    source = RunDir(source_dir.resolve())
    if source.root == job.run.root:
        raise RunFolderError(f"{source.root} cannot adopt itself; give another --run-dir.")
    numbers = read_json(source.winner_path)["trials"]
    records = [read_json(source.trial_dir(number) / "scores.json") for number in numbers]
    if job.run.adopted_path.exists():
        known = read_json(job.run.adopted_path)
        if known["identity"] != content_hash(records):
            raise RunFolderError(
                f"{job.run.root} has taken over other trials ({known['origin']}, {len(known['trials'])} of them); give "
                "another --run-dir."
            )
        log.info("trials of %s: taken over before", source.root.name)
        return
    link_pool(job, source)
    _take_held_out_scores(job, source)
    adopted: dict[str, Any] = {"origin": source.root.name, "identity": content_hash(records), "trials": records}
    # Later verbs may write a command of their own, which would not make these trials again.
    write_json(job.run.adopted_path, adopted | {"command": job.run.manifest()["command"]})
    log.info("pool and %d scored trials taken from %s", len(records), source.root.name)


def link_pool(job: Job, source: RunDir) -> None:
    """Take a run's checkpoints and vectors into this one, linked where the file system can.

    Raises:
        RunFolderError: This run has a pool of its own.
    """
    stages = source.manifest()["stages"]
    for part in ("checkpoints", "vectors"):
        for folder in sorted((source.root / part).glob("*")):
            stage = f"{'train' if part == 'checkpoints' else part}/{folder.name}"
            inputs = stages.get(stage, {}).get("inputs")
            if inputs is None or not folder.is_dir():
                continue
            target = job.run.root / part / folder.name
            if not target.exists():
                link_folder(folder, target)
            elif not job.run.is_done(stage, inputs):
                raise RunFolderError(f"{target} is there already and not of {source.root}; give another --run-dir.")
            # Done there, so it took no time here.
            job.run.record(stage, inputs, 0.0, is_done=True)


def _take_held_out_scores(job: Job, source: RunDir) -> None:
    """Baselines are the same models; where the held-out samples are too, ``compare`` scores the winner only."""
    if source.held_out_path.exists() and not job.run.held_out_path.exists():
        data = read_json(source.held_out_path)
        models = {name: model | {"elapsed_s": 0.0} for name, model in data["models"].items() if name != "winner"}
        write_json(job.run.held_out_path, data | {"models": models})
