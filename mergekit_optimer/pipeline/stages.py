"""The stages up to the winner: check everything, train, search. Each can be run alone and again."""

from __future__ import annotations

import gc
import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergekit_optimer import corpora
from mergekit_optimer.errors import SearchError
from mergekit_optimer.evaluate import check_tasks
from mergekit_optimer.files import content_hash, discard, read_json, write_csv, write_json, write_text
from mergekit_optimer.merge import merge_to_folder, merge_yaml, portable_yaml
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.mixing import common_inputs, pool_datasets, train_uniform, training_inputs
from mergekit_optimer.pipeline.trial import MergeAndScorer
from mergekit_optimer.pipeline.vector_sources import check_vector_sources
from mergekit_optimer.recipe import DATA_MIXTURE
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search import Search, TrialRecord, Watch, pareto_data
from mergekit_optimer.tasks import PreparedTask, prepare_tasks, read_max_length, sample_texts
from mergekit_optimer.train import check_training, train_dataset
from mergekit_optimer.vectors import TensorFolder, check_finite

log = logging.getLogger(__name__)


def check_inputs(job: Job) -> None:
    """Check what can be wrong before any work: base, data, options, tasks, and that held-out is apart from the rest.

    Raises:
        OptimerError: What is wrong, in a sentence.
    """
    recipe = job.recipe
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


def train_pool(job: Job, datasets: list[str] | None = None, mixture: bool | None = None) -> None:
    """Train a CPT checkpoint per dataset, and the data mixture where the recipe has one.

    Args:
        datasets: Which ones; None for all that the pool needs.
        mixture: Whether to train the mixture; None: where the recipe says so.
    """
    section = job.recipe.train
    if section is None:
        return
    # Where nothing is kept the key is left out: a training of before is the same training.
    kept = [{"keep_checkpoints": section.keep_checkpoints}] if section.keep_checkpoints else []
    for name in pool_datasets(job) if datasets is None else datasets:
        folder = job.run.checkpoint_dir(name)
        key = content_hash([*common_inputs(job), *training_inputs(job, name), *kept])
        with job.stage(f"train/{name}", key, folder) as wanted:
            if wanted:
                train_dataset(job.recipe, name, job.base.path, folder, device=job.device, replace=True)
    if section.mixture is not None if mixture is None else mixture:
        train_uniform(job)


def dev_tasks(job: Job) -> list[PreparedTask]:
    """Write the dev samples in their fixed order."""
    return _prepared(job, "dev", job.recipe.tasks)


def held_out_tasks(job: Job) -> list[PreparedTask]:
    """Write the held-out samples. Only the comparison calls this."""
    return _prepared(job, "held_out", job.recipe.held_out)


def search_weights(job: Job, rank_only: bool = False, watch: Watch | None = None) -> dict[str, Any]:
    """Search the merge weights on the dev set.

    Args:
        rank_only: Rank the trials taken over from another study, run none.
        watch: Told of every trial that ends; None: it has a line in the log.

    Returns:
        What winner.json holds: the winner's number, value and weights, and the study in numbers.

    Raises:
        InfrastructureError: The live model does not fit into memory.
        SearchError: There is nothing to rank, or the study cannot go on.
    """
    adopted = read_json(job.run.adopted_path) if job.run.adopted_path.exists() else {"origin": None, "trials": []}
    if rank_only and not adopted["trials"]:
        raise SearchError("There are no scored trials to rank: name a finished run with --from.")
    tasks = dev_tasks(job)
    section = job.recipe.search.model_dump(mode="json", exclude={"n_trials"})
    samples = {task.name: task.content_hash for task in tasks}
    # What decides a trial's score; a longer study is the same study.
    scored_with = {"base": job.base_fingerprint, "pool": job.pool_files, "samples": samples}
    identity = content_hash([*scored_with.values(), section, job.recipe.seed])
    inputs = content_hash([identity, job.recipe.search.n_trials, adopted["origin"], rank_only])
    with job.stage("search", inputs, job.run.winner_path) as wanted:
        if wanted:
            scorer = MergeAndScorer(job, tasks)
            study = Search(job.recipe, job.run, job.pool.names, identity, scorer, scorer.slopes, watch)
            if adopted["trials"]:
                trials = [TrialRecord.from_json(trial) for trial in adopted["trials"]]
                study.adopt(trials, adopted["origin"], write_trial=scorer.write_yaml)
            if not rank_only:
                scorer.load()
            result = study.run(rank_only=rank_only)
            write_json(job.run.winner_path, result.to_json() | {"scored_with": scored_with})
            log.info("winner: trial #%d  dev %.4f", result.winner.number, result.winner.value)
            # The winner is merged from the same files next: mapped by both, they would count twice. A model is a web
            # of cycles, which only the collector takes apart.
            del scorer, study
            gc.collect()
    summary: dict[str, Any] = read_json(job.run.winner_path)
    if job.recipe.search.objective.pareto_tasks:
        _write_front(job, summary)
    return summary


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
