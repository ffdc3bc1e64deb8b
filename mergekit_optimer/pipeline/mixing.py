"""The data mixtures of a run: the uniform baseline, and the one that the winner's weights stand for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import TrainError
from mergekit_optimer.files import content_hash, read_json, write_csv, write_json, write_text
from mergekit_optimer.mixture import Mixture, mixture_recipe, plan_mixture, with_shares
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.recipe import DATA_MIXTURE, OPTIMISED_MIXTURE
from mergekit_optimer.train import ALONE, Processes, read_record, train_mixture

log = logging.getLogger(__name__)


def pool_datasets(job: Job) -> list[str]:
    """The datasets whose checkpoints the pool needs, in name order."""
    return sorted({spec.dataset for spec in job.recipe.pool.values() if spec.dataset})


def training_inputs(job: Job, dataset: str) -> list[Any]:
    """What decides a dataset's training, beside what is common to all."""
    assert job.recipe.train is not None
    return [job.recipe.train.datasets[dataset].sft_options, job.data_fingerprint(dataset)]


def common_inputs(job: Job) -> list[Any]:
    """What decides all trainings."""
    assert job.recipe.train is not None
    return [job.base_fingerprint, job.recipe.seed, job.recipe.train.defaults]


@contextmanager
def training_stage(
    job: Job, name: str, inputs: Callable[[], str], folder: Path, processes: Processes
) -> Iterator[bool]:
    """Run a training as a stage: of several processes the first decides whether it is to be run, and keeps its time.

    Args:
        inputs: What decides the training, as a hash. Asked in the first process alone: it reads base and data.
    """
    if not processes.is_first:
        yield processes.share(False)
        return
    with job.stage(f"train/{name}", inputs(), folder) as wanted:
        yield processes.share(wanted)


def train_uniform(job: Job, processes: Processes = ALONE) -> None:
    """Train the ``data_mixture`` baseline: equal shares, or those of ``train.mixture.shares``."""
    assert job.recipe.train is not None
    mixture = job.recipe.train.mixture
    _train(job, DATA_MIXTURE, mixture.shares if mixture else None, processes)


def train_optimised(job: Job) -> None:
    """Train ``data_mixture/optimised`` where the recipe says so; it needs a winner.

    A winner without a positive weight stands for no mixture: that is said, and the baseline is not there.
    """
    mixture = job.recipe.train.mixture if job.recipe.train else None
    if mixture is None or not mixture.optimised:
        return
    try:
        shares = plan_of_winner(job).dataset_shares
    except TrainError as error:
        log.warning("no %s: %s", OPTIMISED_MIXTURE, error)
        return
    _train(job, OPTIMISED_MIXTURE, shares)


def trained_mixtures(job: Job) -> list[str]:
    """The mixtures to compare: those that are trained, the optimised one only at the shares of today's winner."""
    found = [name for name in (DATA_MIXTURE, OPTIMISED_MIXTURE) if job.run.checkpoint_dir(name).exists()]
    if OPTIMISED_MIXTURE in found and not _is_of_winner(job):
        log.warning("%s is of another winner and left out; `mergekit-optimer run` trains it anew", OPTIMISED_MIXTURE)
        found.remove(OPTIMISED_MIXTURE)
    return found


def plan_of_winner(job: Job) -> Mixture:
    """The mixture that the winner's weights stand for.

    Raises:
        TrainError: No dataset has a positive weight, or none is trained in this run.
        RunFolderError: There is no winner, or a checkpoint is not there.
    """
    weights = read_json(job.run.winner_path)["winner"]["weights"]
    names = pool_datasets(job)
    if not names:
        raise TrainError("No vector of this run was trained here, so there are no datasets to mix.")
    tokens = {name: read_record(job.run.checkpoint_dir(name)).n_tokens_trained for name in names}
    return plan_mixture(weights, {name: spec.dataset for name, spec in job.recipe.pool.items()}, tokens)


def write_mixture(job: Job) -> Mixture:
    """Write mixture.yaml, and the numbers as analysis/mixture.json and .csv.

    Raises:
        As plan_of_winner.
    """
    mixture = plan_of_winner(job)
    place = job.run.mixture_recipe_path
    write_text(place, mixture_recipe(job.recipe, mixture, job.run.root))
    numbers = job.run.analysis_path("mixture")
    rows = mixture.to_rows()
    write_csv(numbers.with_suffix(".csv"), list(rows[0]), [list(row.values()) for row in rows])
    write_json(numbers, mixture.to_json() | {"recipe": place.relative_to(job.run.root).as_posix()})
    return mixture


def _train(job: Job, name: str, shares: dict[str, float] | None, processes: Processes = ALONE) -> None:
    """Train a mixture of the pool's datasets unless it is there; with no pool here, of all datasets."""
    mixed, folder = _mixed(job), job.run.checkpoint_dir(name)
    with training_stage(job, name, lambda: _inputs(job, shares), folder, processes) as wanted:
        if wanted:
            recipe = job.recipe if name == DATA_MIXTURE else with_shares(job.recipe, shares or {})
            train_mixture(recipe, job.base.path, folder, device=job.device, datasets=mixed, replace=True)


def _mixed(job: Job) -> list[str]:
    return pool_datasets(job) or sorted(job.recipe.train.datasets if job.recipe.train else {})


def _inputs(job: Job, shares: dict[str, float] | None) -> str:
    return content_hash([*common_inputs(job), shares, {name: training_inputs(job, name) for name in _mixed(job)}])


def _is_of_winner(job: Job) -> bool:
    try:
        shares = plan_of_winner(job).dataset_shares
    except TrainError:
        return False
    return job.run.is_done(f"train/{OPTIMISED_MIXTURE}", _inputs(job, shares))
