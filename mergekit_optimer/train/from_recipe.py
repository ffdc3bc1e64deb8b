"""From the recipe to a training: the documents of one dataset, or a mixture of several."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mergekit_optimer.corpora import read_corpus
from mergekit_optimer.errors import TrainError
from mergekit_optimer.recipe import DATA_MIXTURE, Recipe, TrainSection
from mergekit_optimer.train.cpt import Training, run_training
from mergekit_optimer.train.mixture import mix, mixture_steps, run_size
from mergekit_optimer.train.options import (
    check_options,
    document_lengths,
    effective_options,
    load_tokenizer,
    make_config,
)
from mergekit_optimer.train.record import TrainingRecord

log = logging.getLogger(__name__)


def check_training(recipe: Recipe, name: str, base_dir: Path, device: str) -> None:
    """Check in a moment, without TRL and without data, what would stop a training only after minutes.

    Args:
        recipe: With a ``train`` section.
        name: A dataset of ``train.datasets``, or ``data_mixture``.
        base_dir: Folder of the base model.
        device: "cpu" or a CUDA device.

    Raises:
        TrainError: No such dataset or device, packing would lose tokens, the tokenizer cannot be loaded or cannot
            end documents, or ``max_length`` is beyond the model's positions.
    """
    _checked(recipe, name, base_dir, device)


def train_dataset(
    recipe: Recipe, name: str, base_dir: Path, out_dir: Path, *, device: str, replace: bool = False
) -> TrainingRecord:
    """Train one dataset of the recipe into a CPT checkpoint; an interrupted call goes on where it stopped.

    Args:
        recipe: With a ``train`` section.
        name: A dataset of ``train.datasets``.
        base_dir: Folder of the base model, of any stored dtype; it is trained and saved in float32.
        out_dir: The checkpoint's folder. If it holds the same training already, nothing is done.
        device: "cpu" or a CUDA device.
        replace: Whether something else in ``out_dir``, as another training, is deleted first.

    Raises:
        TrainError: The recipe has no such dataset, an option or the base does not fit, or training diverged.
        DataError: The dataset cannot be read.
        InfrastructureError: Memory ran out.
        RunFolderError: ``out_dir`` holds something else and ``replace`` is off.
    """
    section = _section_with(recipe, [name])
    options, tokenizer = _checked(recipe, name, base_dir, device)
    make_config(name, options, out_dir)
    corpus = read_corpus(section.datasets[name], recipe)
    training = Training(
        name=name,
        dataset=corpus.dataset,
        n_tokens=sum(document_lengths(corpus.dataset["text"], tokenizer)),
        data_fingerprints={name: corpus.fingerprint},
        options=options,
        seed=recipe.seed,
        device=device,
        trust_remote_code=recipe.base_model.trust_remote_code,
        keep_checkpoints=section.keep_checkpoints,
    )
    return run_training(training, tokenizer, base_dir, out_dir, replace=replace)


def train_mixture(
    recipe: Recipe,
    base_dir: Path,
    out_dir: Path,
    *,
    device: str,
    datasets: list[str] | None = None,
    replace: bool = False,
) -> TrainingRecord:
    """Train the ``data_mixture`` baseline: one checkpoint on several datasets, on as many tokens as their single runs.

    Shares are of tokens (``train.mixture.shares``, equal where omitted). Options are ``train.defaults``; what a
    dataset overrides for itself holds for its single run only.

    Args:
        datasets: Which ones, as those of the vector pool; None for all of ``train.datasets``. Where the shares name
            fewer, only those are mixed, on as many tokens as the single runs of all given here.
        device, replace: As ``train_dataset``.

    Raises:
        As ``train_dataset``; TrainError also where the shares name a dataset that is not among ``datasets``.
    """
    name = DATA_MIXTURE
    section = _section_with(recipe, datasets or [])
    chosen = sorted(section.datasets if datasets is None else set(datasets))
    if not chosen:
        raise TrainError("There is no dataset to mix; name one of train.datasets.")
    shares = (section.mixture.shares if section.mixture else None) or dict.fromkeys(chosen, 1.0)
    if strange := sorted(set(shares) - set(chosen)):
        raise TrainError(
            f"train.mixture.shares names {', '.join(strange)}, which is not mixed here (mixed: {', '.join(chosen)}); "
            "take it out of the shares, or its vector into the pool."
        )
    options, tokenizer = _checked(recipe, name, base_dir, device)
    config = make_config(name, options, out_dir)
    corpora = {dataset: read_corpus(section.datasets[dataset], recipe) for dataset in chosen}
    lengths = {dataset: document_lengths(corpus.dataset["text"], tokenizer) for dataset, corpus in corpora.items()}
    sizes = [
        run_size(lengths[dataset], effective_options(recipe, dataset, device), config.world_size) for dataset in corpora
    ]
    tokens_per_step = run_size([1], options, config.world_size).tokens_per_step
    options |= {"max_steps": mixture_steps(sizes, tokens_per_step)}
    n_tokens = sum(size.n_tokens for size in sizes)
    log.info("train %s: %d steps, %s tokens, as the single runs", name, options["max_steps"], f"{n_tokens:,}")
    mixed, parts = mix(
        {dataset: corpora[dataset].dataset for dataset in shares}, lengths, shares, n_tokens, recipe.seed
    )
    training = Training(
        name=name,
        dataset=mixed,
        n_tokens=sum(part.n_tokens for part in parts.values()),
        data_fingerprints={dataset: corpora[dataset].fingerprint for dataset in shares},
        options=options,
        seed=recipe.seed,
        device=device,
        trust_remote_code=recipe.base_model.trust_remote_code,
        mixture=parts,
    )
    return run_training(training, tokenizer, base_dir, out_dir, replace=replace)


def _section_with(recipe: Recipe, datasets: list[str]) -> TrainSection:
    """Return the recipe's ``train`` section if it has all these datasets.

    Raises:
        TrainError: It has not.
    """
    known = sorted(recipe.train.datasets) if recipe.train else []
    unknown = sorted(set(datasets) - set(known))
    if unknown:
        raise TrainError(f"The recipe trains no dataset '{unknown[0]}' (it has: {', '.join(known) or 'none'}).")
    if recipe.train is None:
        raise TrainError("The recipe has no train section, so there is nothing to train.")
    return recipe.train


def _checked(recipe: Recipe, name: str, base_dir: Path, device: str) -> tuple[dict[str, Any], Any]:
    """Return options and tokenizer of a training, as ``check_training`` checks them."""
    dataset = None if name == DATA_MIXTURE else name
    _section_with(recipe, [dataset] if dataset else [])
    options = effective_options(recipe, dataset, device)
    check_options(name, options)
    return options, load_tokenizer(name, base_dir, options, recipe.base_model.trust_remote_code)
