"""The stages up to the winner: check everything, train, make vectors, search. Each can be run alone and again."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mergekit_optimer import corpora
from mergekit_optimer.errors import MergeError, TaskError
from mergekit_optimer.evaluate import Scorer, load_model
from mergekit_optimer.merge import merge_to_folder, merge_yaml, portable_yaml
from mergekit_optimer.pipeline.job import MIXTURE, Job
from mergekit_optimer.runs import content_hash, read_json, write_json, write_text
from mergekit_optimer.search import Measured, Search, SearchResult, TrialRecord
from mergekit_optimer.tasks import PreparedTask, prepare_tasks, read_max_length, sample_texts
from mergekit_optimer.train import train_dataset, train_mixture
from mergekit_optimer.vectors import extract_vector, model_fingerprint

log = logging.getLogger(__name__)


def check_inputs(job: Job) -> None:
    """Check what can be wrong before any work: base, data, tasks, and that held-out is apart from dev and training.

    Raises:
        OptimerError: What is wrong, in a sentence.
    """
    recipe = job.recipe
    if job.tokenizer.eos_token is None:
        raise TaskError(f"The tokenizer of {job.base.label} has no EOS token; set one and save the base again.")
    log.info("base model %s: %s, fingerprint %s", job.base.label, job.dtype, job.base_fingerprint[:12])
    seen: dict[str, Iterable[str]] = {
        f"dev task '{name}'": sample_texts(spec, recipe) for name, spec in recipe.tasks.items()
    }
    if recipe.train:
        for name, dataset in sorted(recipe.train.datasets.items()):
            corpus = corpora.read_corpus(dataset, recipe)
            log.info("dataset %s: %d documents, %d bytes", name, corpus.n_documents, corpus.size_bytes)
            seen[f"dataset '{name}'"] = corpus.dataset["text"]
    corpora.check_disjoint(seen, {name: sample_texts(spec, recipe) for name, spec in recipe.held_out.items()})


def train_pool(job: Job, datasets: list[str] | None = None, mixture: bool | None = None) -> None:
    """Train a CPT checkpoint per dataset, and the data mixture where the recipe has one.

    Args:
        datasets: Which ones; None for all that the pool needs.
        mixture: Whether to train the mixture; None: where the recipe says so.
    """
    section = job.recipe.train
    if section is None:
        return
    if datasets is None:
        datasets = sorted({spec.dataset for spec in job.recipe.pool.values() if spec.dataset})
    common = [job.base_fingerprint, job.recipe.seed, section.defaults]
    for name in datasets:
        corpus = corpora.read_corpus(section.datasets[name], job.recipe)
        inputs = content_hash([*common, section.datasets[name].sft_options, corpus.fingerprint])
        with job.stage(f"train/{name}", inputs) as wanted:
            if wanted:
                _discard(job.run.checkpoint_dir(name))
                train_dataset(job.recipe, name, job.base.path, job.run.checkpoint_dir(name), device=job.device)
    if section.mixture is not None if mixture is None else mixture:
        options = {name: spec.sft_options for name, spec in section.datasets.items()}
        prints = {name: corpora.read_corpus(s, job.recipe).fingerprint for name, s in section.datasets.items()}
        shares = section.mixture.shares if section.mixture else None
        with job.stage(f"train/{MIXTURE}", content_hash([*common, options, prints, shares])) as wanted:
            if wanted:
                _discard(job.run.checkpoint_dir(MIXTURE))
                train_mixture(job.recipe, job.base.path, job.run.checkpoint_dir(MIXTURE), device=job.device)


def make_vectors(job: Job) -> None:
    """Extract the distribution vector of each checkpoint of the pool; stored deltas are used where they lie."""
    for name, spec in job.recipe.pool.items():
        checkpoint = job.checkpoint(name)
        if checkpoint is None:
            continue
        if not checkpoint.path.exists():
            raise MergeError(f"Dataset '{spec.dataset}' is not trained yet; run `mergekit-optimer train` first.")
        base = job.own_base(spec) or job.base
        inputs = content_hash([model_fingerprint(checkpoint.path), model_fingerprint(base.path), spec.dtype])
        with job.stage(f"vectors/{name}", inputs) as wanted:
            if not wanted:
                continue
            _discard(job.run.vector_dir(name))
            folder = job.run.vector_dir(name)
            vector = extract_vector(name, checkpoint.path, base.path, folder, base.label, spec.dtype)
            log.info("vector %s: norm %.4g, %.2g of the base's", name, vector.norm, vector.relative_norm)
            applied = vector.applied_fraction.get(job.dtype, {}).get("total", 1.0)
            if applied < 0.9:
                log.warning("vector %s: only %.0f %% of it survives storage as %s", name, 100 * applied, job.dtype)


def dev_tasks(job: Job) -> list[PreparedTask]:
    """Write the dev samples in their fixed order."""
    return _prepared(job, "dev", job.recipe.tasks)


def held_out_tasks(job: Job) -> list[PreparedTask]:
    """Write the held-out samples. Only the comparison calls this."""
    return _prepared(job, "held_out", job.recipe.held_out)


def search_weights(job: Job) -> SearchResult:
    """Search the merge weights on the dev set and merge the winner."""
    tasks = dev_tasks(job)
    identity = _search_identity(job, tasks)
    inputs = content_hash([identity, job.recipe.search.n_trials])
    merger = MergeAndScorer(job, tasks)
    with job.stage("search", inputs) as wanted:
        search = Search(job.recipe, job.run, job.pool.names, identity, merger)
        result = search.run()
        if wanted:
            log.info("winner: trial #%d  dev %.4f", result.winner.number, result.winner.value)
    write_winner(job, result)
    return result


def write_winner(job: Job, result: SearchResult) -> None:
    """Write the winner's record, its YAML with the portable twin, and the merged model."""
    winner = result.winner
    yaml_text = merge_yaml(str(job.base.path), job.ingredients(), winner.weights, job.dtype)
    pool = {name: vector.files for name, vector in job.pool.vectors.items()}
    inputs = content_hash([job.base_fingerprint, pool, winner.weights, job.dtype])
    with job.stage("merge_winner", inputs) as wanted:
        if wanted:
            _discard(job.run.model_dir)
            merge_to_folder(yaml_text, job.run.model_dir, device=job.device)
            write_text(job.run.best_dir / "merge.yaml", yaml_text)
            twin = portable_yaml(str(job.base.path), job.ingredients(), winner.weights, job.dtype)
            write_text(job.run.best_dir / "merge.portable.yaml", twin)
    summary = {
        "winner": winner.to_json() | {"tasks": None},
        "n_trials": len(result.trials),
        "n_collapsed": sum(bool(trial.collapsed) for trial in result.trials),
        "n_failed": result.n_failed,
        "merge_s": sum(trial.merge_s for trial in result.trials),
        "score_s": sum(trial.score_s for trial in result.trials),
    }
    write_json(job.run.winner_path, summary)


def trial_records(job: Job) -> list[TrialRecord]:
    """The finished trials of the run, in order of their number."""
    paths = sorted((job.run.root / "trials").glob("*/scores.json"))
    return [TrialRecord.from_json(read_json(path)) for path in paths]


class MergeAndScorer:
    """Merge a weight vector with mergekit, load it into the one live model, and score it with lighteval."""

    def __init__(self, job: Job, tasks: list[PreparedTask]) -> None:
        self._job, self._tasks = job, tasks
        self._ingredients = job.ingredients()
        self._live: tuple[Any, Scorer] | None = None

    def __call__(self, weights: Mapping[str, float], trial_dir: Path, start: int, stop: int) -> Measured:
        job = self._job
        yaml_text = merge_yaml(str(job.base.path), self._ingredients, weights, job.dtype)
        write_text(trial_dir / "merge.yaml", yaml_text)
        model_dir = trial_dir / "model"
        _discard(model_dir)
        started = time.monotonic()
        try:
            merge_to_folder(yaml_text, model_dir, device=job.device)
            scorer = self._load(model_dir)
        finally:
            _discard(model_dir)
        merged = time.monotonic()
        scores = scorer.score(stop, start=start)
        return Measured(scores, merged - started, time.monotonic() - merged)

    def score_folder(self, model_dir: Path) -> Measured:
        """Score a model folder on all samples."""
        started = time.monotonic()
        scorer = self._load(model_dir)
        loaded = time.monotonic()
        return Measured(scorer.score(), loaded - started, time.monotonic() - loaded)

    def _load(self, model_dir: Path) -> Scorer:
        """Bring a folder's weights into the live model, in the base's dtype."""
        job = self._job
        if self._live is None:
            live = load_model(job.base.path, job.device, job.recipe.base_model.trust_remote_code)
            self._live = (live, Scorer(live, job.base.path, self._tasks, device=job.device))
        live, scorer = self._live
        fresh = load_model(model_dir, job.device, job.recipe.base_model.trust_remote_code)
        live.load_state_dict(fresh.state_dict())
        return scorer


def _prepared(job: Job, part: str, specs: dict[str, Any]) -> list[PreparedTask]:
    length = read_max_length(job.base.path)
    return prepare_tasks(specs, job.recipe, job.tokenizer, length, job.run.samples_dir(part))


def _search_identity(job: Job, tasks: list[PreparedTask]) -> str:
    """Hash of what decides a trial's score: pool, tasks and the search section without its length."""
    vectors = {name: vector.files for name, vector in job.pool.vectors.items()}
    section = job.recipe.search.model_dump(mode="json", exclude={"n_trials"})
    samples = {task.name: task.content_hash for task in tasks}
    return content_hash([job.base_fingerprint, vectors, samples, section, job.recipe.seed])


def _discard(folder: Path) -> None:
    """Remove what an earlier, different run of the stage left."""
    if folder.exists():
        shutil.rmtree(folder)
