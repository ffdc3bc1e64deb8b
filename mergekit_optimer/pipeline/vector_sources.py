"""The pool's vectors from what the recipe names: a CPT checkpoint of this run, any checkpoint, a LoRA adapter."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mergekit_optimer.errors import MergeError
from mergekit_optimer.files import content_hash, discard
from mergekit_optimer.hub import Located
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.recipe import VectorSpec
from mergekit_optimer.vectors import (
    WELL_APPLIED,
    DistributionVector,
    Provenance,
    adapter_fingerprint,
    check_adapter,
    check_checkpoint,
    extract_adapter,
    extract_vector,
    load_pool,
    make_or_link,
    model_fingerprint,
    tokenizer_fingerprint,
    vector_key,
)

log = logging.getLogger(__name__)


def check_vector_sources(job: Job) -> None:
    """Check the vectors that come from elsewhere: that they are there and fit, before anything is trained.

    Raises:
        OptimerError: What is wrong, in a sentence.
    """
    deltas = {}
    for name, spec in job.recipe.pool.items():
        base, own_base = _base(job, spec), job.own_base(spec)
        adapter, checkpoint = job.adapter(name), job.checkpoint(name) if spec.checkpoint else None
        if adapter is not None:
            check_adapter(name, adapter.path, base.path, base.label, _trusts_base(job, spec))
        if checkpoint is not None:
            check_checkpoint(name, checkpoint.path, base.path, base.label)
        # The vector will be added to the recipe's base, whatever it is subtracted from.
        added = checkpoint or own_base
        if added is not None and own_base is not None:
            check_checkpoint(name, added.path, job.base.path, job.base.label)
        if spec.delta is not None:
            deltas[name] = job.vector(name).path
    load_pool(job.base.path, deltas)


def make_vectors(job: Job, names: Sequence[str] | None = None) -> None:
    """Make the distribution vector of each checkpoint and adapter of the pool; stored deltas are used where they lie.

    What was not trained here is made once: other runs link it.

    Args:
        names: Of which vectors; None for all of the pool.

    Raises:
        MergeError: A checkpoint is not trained yet.
        VectorError: A checkpoint or adapter does not fit its base.
    """
    for name, spec in job.recipe.pool.items():
        if spec.delta is not None or (names is not None and name not in names):
            continue
        source, base, folder = job.source(name), _base(job, spec), job.run.vector_dir(name)
        if not source.path.exists():
            raise MergeError(f"Dataset '{spec.dataset}' is not trained yet; run `mergekit-optimer train` first.")
        provenance = _provenance(job, spec, source, base)
        fingerprint, trusts = _fingerprint(spec, source.path), _trusts_base(job, spec)
        key = vector_key(fingerprint, source.path, base.path, spec.dtype, trusts)
        inputs = content_hash([key, base.label, vars(provenance)])
        with job.stage(f"vectors/{name}", inputs, folder) as wanted:
            if not wanted:
                continue
            discard(folder)
            make = partial(_make, job, name, source.path, base, provenance)
            is_trained_here = spec.dataset is not None
            vector = make() if is_trained_here else make_or_link(key, folder, name, base.label, provenance, make)
            log.info("vector %s: norm %.4g, %.2g of the base's", name, vector.norm, vector.relative_norm)
            applied = vector.applied_fraction[job.dtype]["total"]
            if applied < WELL_APPLIED:
                log.warning("vector %s: only %.0f %% of it survives storage as %s", name, 100 * applied, job.dtype)


def make_missing_vectors(job: Job) -> None:
    """Make the vectors that are not there and can be: of each checkpoint and adapter but what is not trained yet.

    Where none is missing nothing is read, asked or said.

    Raises:
        HubError: A checkpoint or adapter cannot be had.
        VectorError: As ``make_vectors``.
    """
    missing = [name for name in job.recipe.pool if not job.run.vector_dir(name).exists()]
    if names := [name for name in missing if can_be_made(job, name)]:
        make_vectors(job, names)


def can_be_made(job: Job, name: str) -> bool:
    """Whether a vector is made here (a stored delta is not) and what it is made from is at hand, or can be fetched.

    Raises:
        HubError: It is elsewhere and cannot be had.
    """
    return job.recipe.pool[name].delta is None and job.source(name).path.exists()


def _make(job: Job, name: str, source: Path, base: Located, provenance: Provenance) -> DistributionVector:
    spec, folder = job.recipe.pool[name], job.run.vector_dir(name)
    extract = extract_adapter if spec.adapter is not None else extract_vector
    return extract(name, source, base.path, folder, base.label, spec.dtype, provenance, _trusts_base(job, spec))


def _fingerprint(spec: VectorSpec, folder: Path) -> str:
    if spec.adapter is not None:
        return adapter_fingerprint(folder)
    return f"{model_fingerprint(folder)}+{tokenizer_fingerprint(folder)}"


def _base(job: Job, spec: VectorSpec) -> Located:
    """What a vector is subtracted from."""
    return job.own_base(spec) or job.base


def _trusts_base(job: Job, spec: VectorSpec) -> bool:
    return (spec.base or job.recipe.base_model).trust_remote_code


def _provenance(job: Job, spec: VectorSpec, source: Located, base: Located) -> Provenance:
    if spec.dataset is None:
        return Provenance(base.repo, base.revision, source=source.label)
    assert job.recipe.train is not None
    dataset = job.recipe.train.datasets[spec.dataset]
    # Never a path of this machine: the record is published.
    label = Path(str(dataset.path)).name if dataset.repo is None else str(dataset)
    return Provenance(base.repo, base.revision, label, dataset.repo, dataset.revision)
