"""A finished run's pool and trials taken into a new run, for another objective: nothing is trained or scored again.

Reported for OptiMer (arXiv 2603.28858): one pool, searched again for another objective, without training.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.stages import dev_tasks
from mergekit_optimer.runs import RunDir, flatten, link_folder, read_json, write_json
from mergekit_optimer.tasks import PreparedTask

log = logging.getLogger(__name__)

# What a study may have otherwise than the one whose trials it takes over; a trial's scores depend on none of it.
FREE = ("name", "search.objective", "search.n_trials", "search.sampler", "search.warm_starts", "search.race",
        "search.until_flat", "held_out", "publish")  # fmt: skip


def adopt_run(job: Job, source_dir: Path) -> None:
    """Take checkpoints, vectors and scored trials of a finished run into this one; again, it changes nothing.

    Checkpoints and vectors are linked, not copied, where the file system can. ``search_weights`` then ranks the trials
    by this recipe's objective before it runs any.

    Raises:
        RunFolderError: There is no finished study, or it had another base, pool, dev set or interval.
    """
    source = RunDir(source_dir.resolve())
    if source.root == job.run.root:
        raise RunFolderError(f"{source.root} cannot adopt itself; give another --run-dir.")
    if not source.manifest_path.exists() or not source.winner_path.exists():
        raise RunFolderError(f"{source.root} holds no finished study; run `mergekit-optimer search` there first.")
    if job.run.adopted_path.exists():
        log.info("trials of %s: taken over before", source.root.name)
        return
    _check_same_study(job, source)
    for part in ("checkpoints", "vectors"):
        for folder in sorted((source.root / part).glob("*")):
            target = job.run.root / part / folder.name
            if not folder.name.startswith(".") and folder.is_dir() and not target.exists():
                link_folder(folder, target)
    for stage, facts in source.manifest()["stages"].items():
        if stage.startswith(("train/", "vectors/")) and facts["inputs"] is not None:
            # Done there, so it took no time here.
            job.run.record(stage, facts["inputs"], 0.0, is_done=True)
    _check_same_samples(dev_tasks(job), source)
    _take_held_out_scores(job, source)
    numbers = read_json(source.winner_path)["trials"]
    records = [read_json(source.trial_dir(number) / "scores.json") for number in numbers]
    write_json(job.run.adopted_path, {"origin": source.root.name, "trials": records})
    log.info("pool and %d scored trials taken from %s", len(records), source.root.name)


def _check_same_study(job: Job, source: RunDir) -> None:
    before, now = flatten(source.manifest()["recipe"]), flatten(job.recipe.canonical())
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if fixed := [key for key in differing if not key.startswith(FREE)]:
        raise RunFolderError(
            f"The trials of {source.root} do not fit this recipe: {', '.join(fixed[:4])} differ. Restore them, or "
            "search without --from."
        )


def _check_same_samples(tasks: list[PreparedTask], source: RunDir) -> None:
    """Check by content that the trials were scored on these very samples."""
    for task in tasks:
        if task.folder is None:
            continue
        for ours in sorted(task.folder.glob("*.jsonl")):
            theirs = source.samples_dir("dev") / task.folder.name / ours.name
            if not theirs.exists() or theirs.read_bytes() != ours.read_bytes():
                raise RunFolderError(
                    f"The dev samples of '{task.name}' are not those of {source.root}; its scores do not stand for "
                    "them. Search without --from."
                )


def _take_held_out_scores(job: Job, source: RunDir) -> None:
    """Baselines are the same models; where the held-out samples are too, ``compare`` scores the winner only."""
    if source.held_out_path.exists() and not job.run.held_out_path.exists():
        data = read_json(source.held_out_path)
        models = {name: model | {"elapsed_s": 0.0} for name, model in data["models"].items() if name != "winner"}
        write_json(job.run.held_out_path, data | {"models": models})
