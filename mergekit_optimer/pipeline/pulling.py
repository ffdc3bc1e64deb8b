"""Pull a vector pool that others published, or the parts of a merge: everything at a commit, checked, in the cache."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergekit_optimer import hub
from mergekit_optimer.errors import VectorError
from mergekit_optimer.hub import MODEL_FILES, Located
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.vector_sources import can_be_made, make_vectors
from mergekit_optimer.recipe import is_name
from mergekit_optimer.vectors import POOL, RECORD, DistributionVector, check_files, load_vector, read_manifest

log = logging.getLogger(__name__)

_COLLECTION = re.compile(r"(?:https?://[^/]+/)?collections/([^/\s]+/[^/\s]+)")
# Where a mergekit configuration names models; base is our method's.
_MODEL_KEYS = ("model", "base_model", "lora", "base", "tokenizer_source", "source")
_REFERENCE = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(\S+))?")


@dataclass(frozen=True)
class PulledPool:
    """A pool in the cache.

    Attributes:
        base: The base model's repository; None where the pool's is no repository.
        base_label: What the base is called.
        vectors: Place of each, by name.
        records: What each says of itself.
    """

    base: Located | None
    base_label: str
    vectors: dict[str, Located]
    records: dict[str, DistributionVector]

    def to_recipe(self) -> dict[str, Any]:
        """The recipe's sections that name this pool, every repository at its commit."""
        deltas = {name: {"delta": _source(place)} for name, place in self.vectors.items()}
        return ({"base_model": _source(self.base)} if self.base else {}) | {"vectors": deltas}


def pull_pool(reference: str) -> PulledPool:
    """Fetch a pool by its manifest's repository, as owner/name[@revision], or by a collection of vectors.

    Raises:
        HubError: A repository cannot be had.
        VectorError: It is no pool, a vector is damaged, or two are of different bases.
    """
    collection = _COLLECTION.fullmatch(reference)
    if collection is not None:
        places = _of_collection(collection[1])
        first = load_vector(next(iter(places.values())).path)
        repo, revision, label, fingerprint = (
            first.base_repo, first.base_revision, first.base_label, first.base_fingerprint
        )  # fmt: skip
    else:
        repo, revision = split_reference(reference)
        folder, commit = hub.pull(repo, revision, "model", [POOL])
        log.info("pool %s@%s", repo, commit)
        manifest = read_manifest(folder, repo)
        places = {name: _pulled(member.repo, member.revision) for name, member in sorted(manifest.vectors.items())}
        repo, revision = manifest.base.repo, manifest.base.revision
        label, fingerprint = manifest.base.label, manifest.base.fingerprint
    records = {name: load_vector(place.path) for name, place in places.items()}
    for name, record in records.items():
        check_files(places[name].path, record)
        if record.base_fingerprint != fingerprint:
            raise VectorError(
                f"Vector '{name}' of {reference} was made from {record.base_label}, the pool's base is {label}: a pool "
                "stands over one base. Pull the vector by itself, or tell the pool's owner."
            )
        log.info("vector %s: %s, norm %.4g, %.2g of the base's", name, places[name].label, record.norm,
                 record.relative_norm)  # fmt: skip
    return PulledPool(_pulled(repo, revision) if repo else None, label, places, records)


def pull_recipe(job: Job) -> dict[str, Located]:
    """Fetch the base and the vectors that a recipe names, and make those that it names as checkpoint or adapter.

    A vector of a dataset that is not trained yet is left out.

    Returns:
        "base", then in name order bases/<name>, where a vector has one of its own, and vectors/<name>: the vector's
        folder, labelled as what it came as or was made from.

    Raises:
        HubError: A repository cannot be had.
        VectorError: A checkpoint or adapter does not fit its base.
    """
    places = {"base": job.base}
    made = [name for name in job.recipe.pool if can_be_made(job, name)]
    make_vectors(job, made)
    for name, spec in job.recipe.pool.items():
        own_base = job.own_base(spec)
        places |= {f"bases/{name}": own_base} if own_base else {}
        if name in made or spec.delta is not None:
            source = job.source(name)
            places[f"vectors/{name}"] = replace(source, path=job.vector(name).path, origin=source.origin or source.path)
    return places


def split_reference(reference: str) -> tuple[str, str | None]:
    """Return repository and revision of owner/name[@revision].

    Raises:
        VectorError: It is neither that nor a collection.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise VectorError(
            f"{reference!r} names no pool; write owner/name, owner/name@revision or collections/owner/title-id."
        )
    return found[1], found[2]


def with_local_models(config: Any) -> Any:
    """Return a mergekit configuration whose repositories are pulled and named by their folders.

    A name that is a folder here is that folder, as mergekit takes it. None is left for mergekit to fetch, which would
    check no hash and read pickles.

    Raises:
        HubError: A repository cannot be had.
    """
    if isinstance(config, dict):
        if set(config) in ({"path"}, {"path", "revision"}) and is_reference(str(config["path"])):
            return {"path": str(_pulled(config["path"], config.get("revision")).path)}
        return {key: _local(value) if key in _MODEL_KEYS else with_local_models(value) for key, value in config.items()}
    return [with_local_models(value) for value in config] if isinstance(config, list) else config


def pull_file(reference: str, name: str) -> Path | None:
    """Fetch one file of a model's repository, None where it has none of that name.

    Raises:
        HubError: The repository cannot be had.
    """
    repo, revision = split_reference(reference)
    folder, _ = hub.pull(repo, revision, "model", [name])
    return folder / name if (folder / name).is_file() else None


def is_reference(text: str) -> bool:
    """Whether a text is a repository's name and no folder or file here."""
    is_file = text.endswith((".yaml", ".yml", ".json"))
    return _REFERENCE.fullmatch(text) is not None and not is_file and not Path(text).exists()


def _local(value: Any) -> Any:
    if not isinstance(value, str):
        return with_local_models(value)
    # A model, or model+adapter.
    parts = [str(_pulled(*split_reference(part)).path) if is_reference(part) else part for part in value.split("+")]
    return "+".join(parts)


def _of_collection(slug: str) -> dict[str, Located]:
    """The vectors of a collection, by the names in their records; what is no vector is left out and said."""
    places: dict[str, Located] = {}
    for repo in hub.list_collection(slug):
        folder, commit = hub.pull(repo, None, "model", [RECORD])
        if not (folder / RECORD).is_file():
            log.warning("%s of collection %s is no distribution vector; it is left out", repo, slug)
            continue
        place = _pulled(repo, commit)
        name = load_vector(place.path).name
        if not is_name(name):
            raise VectorError(f"{repo} calls its vector {name!r}, which no recipe can; name it in the recipe instead.")
        if name.casefold() in {known.casefold() for known in places}:
            raise VectorError(f"Collection {slug} has two vectors called {name}; name them in the recipe instead.")
        places[name] = place
    if not places:
        raise VectorError(f"Collection {slug} holds no distribution vector.")
    return dict(sorted(places.items()))


def _pulled(repo: str, revision: str | None) -> Located:
    folder, commit = hub.pull(repo, revision, "model", list(MODEL_FILES))
    return Located(folder, repo, commit)


def _source(place: Located) -> dict[str, str]:
    return {"repo": str(place.repo), "revision": str(place.revision)}
