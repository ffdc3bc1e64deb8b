"""The stages up to the winner: check everything, train, search. Each can be run alone and again."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mergekit_optimer import corpora
from mergekit_optimer.errors import DataError
from mergekit_optimer.evaluate import check_tasks
from mergekit_optimer.files import content_hash, discard, read_json, write_text
from mergekit_optimer.merge import merge_to_folder, merge_yaml, portable_yaml
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.mixing import (
    common_inputs,
    pool_datasets,
    train_uniform,
    training_inputs,
    training_stage,
)
from mergekit_optimer.pipeline.vector_sources import check_vector_sources
from mergekit_optimer.recipe import DATA_MIXTURE, Recipe
from mergekit_optimer.runs import RunDir
from mergekit_optimer.tasks import PreparedTask, prepare_tasks, read_max_length, sample_texts
from mergekit_optimer.train import ALONE, Processes, check_training, train_dataset
from mergekit_optimer.vectors import TensorFolder, check_finite

log = logging.getLogger(__name__)


def check_inputs(job: Job) -> None:
    """Check what can be wrong before any work: base, data, options, tasks, and that held-out is apart from the rest.

    Raises:
        OptimerError: What is wrong, in a sentence.
    """
    recipe = job.recipe
    _check_paths(recipe)
    log.info("base model %s: %s, fingerprint %s", job.base.label, job.dtype, job.base_fingerprint[:12])
    for tensor_name, tensor in TensorFolder(job.base.path).items():
        check_finite("the base model", tensor_name, tensor)
    if recipe.train:
        for name in sorted(recipe.train.datasets):
            check_training(recipe, name, job.base.path, job.device)
        if recipe.train.mixture is not None:
            check_training(recipe, DATA_MIXTURE, job.base.path, job.device)
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(job, run=RunDir(Path(folder)))
        check_tasks([*dev_tasks(trial), *held_out_tasks(trial)])
    check_vector_sources(job)
    check_held_out_is_apart(job)


def _check_paths(recipe: Recipe) -> None:
    """Name everything at once that is not there; one thing alone is told by who reads it."""
    # Path.exists raises where a folder above may not be read.
    absent = {place: path for place, path in recipe.local_paths().items() if not os.path.exists(path)}  # noqa: PTH110
    if len(absent) > 1:
        told = "".join(f"\n  {place}: {path}" for place, path in absent.items())
        raise DataError(f"{len(absent)} paths of the recipe do not exist (they are relative to its folder):{told}")


def check_held_out_is_apart(job: Job) -> None:
    """Check by content that no held-out text is a dev text or was trained on.

    Raises:
        DataError: A text stands on both sides.
    """
    recipe = job.recipe
    seen: dict[str, Iterable[str]] = {
        f"dev task '{name}'": sample_texts(spec, recipe) for name, spec in recipe.tasks.items()
    }
    for name in recipe.train.datasets if recipe.train else ():
        # A generator: one corpus at a time is in memory.
        seen[f"dataset '{name}'"] = _documents(job, name)
    corpora.check_disjoint(seen, {name: sample_texts(spec, recipe) for name, spec in recipe.held_out.items()})


def _documents(job: Job, dataset: str) -> Iterator[str]:
    yield from job.corpus(dataset).dataset["text"]


def train_pool(
    job: Job, datasets: list[str] | None = None, mixture: bool | None = None, processes: Processes = ALONE
) -> None:
    """Train a CPT checkpoint per dataset, and the data mixture where the recipe has one.

    Args:
        datasets: Which ones; None for all that the pool needs.
        mixture: Whether to train the mixture; None: where the recipe says so.
        processes: All that train together and call this.
    """
    section = job.recipe.train
    if section is None:
        return
    for name in pool_datasets(job) if datasets is None else datasets:
        folder = job.run.checkpoint_dir(name)
        with training_stage(job, name, partial(_training_key, job, name), folder, processes) as wanted:
            if wanted:
                train_dataset(job.recipe, name, job.base.path, folder, device=job.device, replace=True)
    if section.mixture is not None if mixture is None else mixture:
        train_uniform(job, processes)


def _training_key(job: Job, name: str) -> str:
    """What decides a dataset's training, as a hash."""
    kept = job.recipe.train.keep_checkpoints if job.recipe.train else None
    # Where nothing is kept the key is left out: a training of before is the same training.
    return content_hash(
        [*common_inputs(job), *training_inputs(job, name), *([{"keep_checkpoints": kept}] if kept else [])]
    )


def dev_tasks(job: Job) -> list[PreparedTask]:
    """Write the dev samples in their fixed order."""
    return _prepared(job, "dev", job.recipe.tasks)


def held_out_tasks(job: Job) -> list[PreparedTask]:
    """Write the held-out samples. Only the comparison calls this."""
    return _prepared(job, "held_out", job.recipe.held_out)


def merge_winner(job: Job) -> None:
    """Write the winner's merged model and its YAML with the portable twin, unless they are there."""
    weights = read_json(job.run.winner_path)["winner"]["weights"]
    base = str(job.base.path)
    inputs = content_hash([job.base_fingerprint, job.pool_files, weights, job.dtype])
    with job.stage("merge_winner", inputs, job.run.model_dir) as wanted:
        if wanted:
            discard(job.run.model_dir)
            yaml_text = merge_yaml(base, job.ingredients, weights, job.dtype)
            write_text(job.run.best_dir / "merge.yaml", yaml_text)
            twin = portable_yaml(base, job.ingredients, weights, job.dtype)
            write_text(job.run.best_dir / "merge.portable.yaml", twin)
            merge_model(job, yaml_text, job.run.model_dir)


def merge_model(job: Job, yaml_text: str, out_dir: Path) -> Path:
    """Run a configuration with the job's device and seed."""
    trust = job.recipe.base_model.trust_remote_code
    return merge_to_folder(yaml_text, out_dir, device=job.device, seed=job.recipe.seed, trust_remote_code=trust)


def _prepared(job: Job, part: str, specs: dict[str, Any]) -> list[PreparedTask]:
    length = read_max_length(job.base.path)
    tasks = prepare_tasks(specs, job.recipe, job.tokenizer, length, job.run.samples_dir(part))
    sizes = (f"{task.name} {task.n_samples if task.n_samples is not None else 'as lighteval has'}" for task in tasks)
    log.info("%s samples: %s", part.replace("_", "-"), ", ".join(sizes))
    return tasks
