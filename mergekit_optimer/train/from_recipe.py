"""From the recipe to a training: the documents of one dataset, or a mixture of all."""

from __future__ import annotations

import logging
from pathlib import Path

from mergekit_optimer.corpora import read_corpus
from mergekit_optimer.errors import TrainError
from mergekit_optimer.recipe import Recipe
from mergekit_optimer.train.cpt import Training, run_training
from mergekit_optimer.train.mixture import mix, mixture_steps, run_size
from mergekit_optimer.train.options import document_lengths, effective_options, load_tokenizer, make_config
from mergekit_optimer.train.record import TrainingRecord

log = logging.getLogger(__name__)


def train_dataset(recipe: Recipe, name: str, base_dir: Path, out_dir: Path, *, device: str) -> TrainingRecord:
    """Train one dataset of the recipe into a CPT checkpoint; an interrupted call goes on where it stopped.

    Args:
        recipe: With a ``train`` section.
        name: A dataset of ``train.datasets``.
        base_dir: Folder of the base model, of any stored dtype; it is trained and saved in float32.
        out_dir: The checkpoint's folder. If it holds the same training already, nothing is done.
        device: "cpu" or a CUDA device.

    Raises:
        TrainError: The recipe has no such dataset, an option or the base does not fit, or training diverged.
        DataError: The dataset cannot be read.
        InfrastructureError: Memory ran out.
        RunFolderError: ``out_dir`` holds something else.
    """
    if recipe.train is None or name not in recipe.train.datasets:
        known = ", ".join(sorted(recipe.train.datasets)) if recipe.train else "none"
        raise TrainError(f"The recipe trains no dataset '{name}' (it has: {known}).")
    options = effective_options(recipe, name, device)
    trust = recipe.base_model.trust_remote_code
    make_config(name, options, out_dir)
    tokenizer = load_tokenizer(name, base_dir, options, trust)
    corpus = read_corpus(recipe.train.datasets[name], recipe)
    training = Training(
        name=name,
        dataset=corpus.dataset,
        n_tokens=sum(document_lengths(corpus.dataset["text"], tokenizer)),
        data_fingerprints={name: corpus.fingerprint},
        options=options,
        seed=recipe.seed,
        device=device,
        trust_remote_code=trust,
    )
    return run_training(training, tokenizer, base_dir, out_dir)


def train_mixture(recipe: Recipe, base_dir: Path, out_dir: Path, *, device: str) -> TrainingRecord:
    """Train the ``data_mixture`` baseline: one checkpoint on all datasets, on as many tokens as their single runs.

    Shares are of tokens (``train.mixture.shares``, equal where omitted). Options are ``train.defaults``; what a
    dataset overrides for itself holds for its single run only.

    Raises:
        As ``train_dataset``.
    """
    name = "data_mixture"
    if recipe.train is None:
        raise TrainError("The recipe has no train section, so there is no mixture to train.")
    options = effective_options(recipe, None, device)
    trust = recipe.base_model.trust_remote_code
    config = make_config(name, options, out_dir)
    tokenizer = load_tokenizer(name, base_dir, options, trust)
    corpora = {dataset: read_corpus(spec, recipe) for dataset, spec in sorted(recipe.train.datasets.items())}
    lengths = {dataset: document_lengths(corpus.dataset["text"], tokenizer) for dataset, corpus in corpora.items()}
    sizes = [
        run_size(lengths[dataset], effective_options(recipe, dataset, device), config.world_size) for dataset in corpora
    ]
    tokens_per_step = run_size([1], options, config.world_size).tokens_per_step
    options |= {"max_steps": mixture_steps(sizes, tokens_per_step)}
    shares = (recipe.train.mixture.shares if recipe.train.mixture else None) or dict.fromkeys(corpora, 1.0)
    n_tokens = sum(size.n_tokens for size in sizes)
    log.info("train %s: %d steps, %s tokens, as all single runs", name, options["max_steps"], f"{n_tokens:,}")
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
        trust_remote_code=trust,
        mixture=parts,
    )
    return run_training(training, tokenizer, base_dir, out_dir)
