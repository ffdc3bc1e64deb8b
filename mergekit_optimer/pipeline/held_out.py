"""The held-out comparison: winner and every baseline, made, scored once, kept per sample. The last stage with a model.

Baselines: base_model, single/<vector>, uniform_average and sum are weight vectors; ties and dare_linear are stock
mergekit methods over the checkpoints at uniform weights; data_mixture and data_mixture/optimised are checkpoints of
their own, where trained.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import MergeError, NotFiniteError
from mergekit_optimer.evaluate import Scorer, load_model
from mergekit_optimer.files import TEMPORARY, content_hash, read_json, write_json
from mergekit_optimer.merge import merge_yaml, stock_yaml
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.mixing import trained_mixtures
from mergekit_optimer.pipeline.stages import (
    check_held_out_is_apart,
    dev_tasks,
    held_out_tasks,
    merge_model,
    merge_winner,
)
from mergekit_optimer.pipeline.trial import MergeAndScorer
from mergekit_optimer.recipe import DATA_MIXTURE, OPTIMISED_MIXTURE, Recipe
from mergekit_optimer.runs import RunDir
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.search import warm_start_weights
from mergekit_optimer.tasks import PreparedTask
from mergekit_optimer.vectors import model_fingerprint, tokenizer_fingerprint

log = logging.getLogger(__name__)

Scores = dict[str, TaskScores]


def compare_held_out(job: Job) -> None:
    """Score winner and baselines on the held-out set and write held_out.json.

    A model that is scored already, with the same weights and samples, is not scored again: a killed comparison
    goes on where it was, and one that is done costs nothing.

    Raises:
        DataError: A held-out text is a dev text or was trained on.
    """
    check_held_out_is_apart(job)
    merge_winner(job)
    tasks = held_out_tasks(job)
    merger = MergeAndScorer(job, tasks)
    identity = held_out_identity(job, tasks)
    known = _known(job, identity)
    models: dict[str, Any] = {}
    with _work_folder(job) as work:
        ways = _ways_to_score(job, merger, work)
        winner = read_json(job.run.winner_path)["winner"]["weights"]
        for number, (name, score) in enumerate(ways.items(), 1):
            inputs = content_hash([job.pool_files, winner if name == "winner" else None, _mixture_print(job, name)])
            if known.get(name, {}).get("inputs") == inputs:
                models[name] = known[name]
                continue
            started = time.monotonic()
            scores = score()
            elapsed_s = time.monotonic() - started
            tasks_json = {task: one.to_json() for task, one in scores.items()}
            models[name] = {"inputs": inputs, "elapsed_s": round(elapsed_s, 3), "tasks": tasks_json}
            write_json(job.run.held_out_path, {"identity": identity, "models": known | models})
            shown = "  ".join(f"{task} {one.score.value:.4f}" for task, one in scores.items())
            log.info("held-out %d/%d  %s: %s  %.1f s", number, len(ways), name, shown, elapsed_s)
    if models == known:
        log.info("compare: done before, nothing changed")
    else:
        write_json(job.run.held_out_path, {"identity": identity, "models": models})


def score_model(recipe: Recipe, model_dir: Path, held_out: bool, device: str) -> dict[str, TaskScores]:
    """Score any model folder on the recipe's dev (or held-out) tasks; keeps nothing.

    Raises:
        MergeError: It has another tokenizer than the base: the samples are cut at the base's tokens.
    """
    if not (model_dir / "config.json").is_file():
        raise MergeError(f"{model_dir} holds no model (no config.json).")
    with tempfile.TemporaryDirectory() as folder:
        job = Job(recipe, RunDir(Path(folder)), device)
        if tokenizer_fingerprint(model_dir) != tokenizer_fingerprint(job.base.path):
            raise MergeError(
                f"{model_dir} has another tokenizer than the base {job.base.label}; scores would not compare."
            )
        tasks = held_out_tasks(job) if held_out else dev_tasks(job)
        model = load_model(model_dir, device, recipe.base_model.trust_remote_code)
        return Scorer(model, model_dir, tasks, device=device).score()


def held_out_identity(job: Job, tasks: list[PreparedTask]) -> str:
    """Hash of what every held-out score stands on: the base and the samples."""
    return content_hash([job.base_fingerprint, {task.name: task.content_hash for task in tasks}])


def held_out_scores(job: Job) -> dict[str, dict[str, TaskScores]]:
    """Read what ``compare_held_out`` wrote: model -> task -> scores."""
    models = read_json(job.run.held_out_path)["models"]
    return {
        name: {task: TaskScores.from_json(data) for task, data in model["tasks"].items()}
        for name, model in models.items()
    }


def _known(job: Job, identity: str) -> dict[str, Any]:
    if not job.run.held_out_path.exists():
        return {}
    data = read_json(job.run.held_out_path)
    return dict(data["models"]) if data["identity"] == identity else {}


def _mixture_print(job: Job, name: str) -> str | None:
    return model_fingerprint(job.run.checkpoint_dir(name)) if name in (DATA_MIXTURE, OPTIMISED_MIXTURE) else None


@contextmanager
def _work_folder(job: Job) -> Iterator[Path]:
    """A folder for models that live for one scoring."""
    work = Path(tempfile.mkdtemp(dir=job.run.root, prefix=f"{TEMPORARY}baselines."))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _ways_to_score(job: Job, merger: MergeAndScorer, work: Path) -> dict[str, Callable[[], Scores]]:
    """How to score each model that is compared, by its name.

    The winner is read from the folder that is published. What is a weight vector is merged in memory, which gives the
    same tensors as a folder; what is a stock method is merged into a folder that lives for its scoring.
    """
    names = job.pool.names
    ways: dict[str, Callable[[], Scores]] = {
        "winner": partial(merger.score_folder, job.run.model_dir),
        "base_model": partial(merger.score_weights, dict.fromkeys(names, 0.0)),
    }
    for name, weights in warm_start_weights(names, ["singles", "uniform_average", "sum"]).items():
        ways[name] = partial(merger.score_weights, weights)
    if len(names) > 1:
        for method in ("ties", "dare_linear"):
            ways[method] = partial(_score_stock, job, merger, method, work)
    for name in trained_mixtures(job):
        ways[name] = partial(merger.score_folder, job.run.checkpoint_dir(name))
    return ways


def _score_stock(job: Job, merger: MergeAndScorer, method: str, work: Path) -> Scores:
    checkpoints = [str(_checkpoint_over_base(job, name, work)) for name in job.pool.names]
    target = work / method
    try:
        merge_model(job, stock_yaml(method, str(job.base.path), checkpoints, job.dtype), target)
        return merger.score_folder(target)
    except NotFiniteError as error:
        # A sum may be more than a narrow dtype holds.
        log.warning("%s", error)
        return merger.score_collapsed()
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _checkpoint_over_base(job: Job, name: str, work: Path) -> Path:
    """The base plus one vector as a checkpoint, which is what stock methods take.

    That is the CPT checkpoint itself; for a stored delta or a vector with its own base it is merged, in float32.
    """
    spec = job.recipe.pool[name]
    checkpoint = job.checkpoint(name)
    if checkpoint is not None and spec.base is None:
        return checkpoint.path
    target = work / f"single-{name}"
    if not target.exists():
        weights = {vector: float(vector == name) for vector in job.pool.names}
        merge_model(job, merge_yaml(str(job.base.path), job.ingredients, weights, "float32"), target)
    return target
