"""Vectors made before, in the user's cache under what they were made from: made once, held once, linked into each run.

The cache is a help, never a condition: a damaged entry is made again, and one that cannot be written is gone without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from mergekit_optimer.errors import OptimerError
from mergekit_optimer.files import content_hash, discard, link_folder, write_json
from mergekit_optimer.machine import user_cache_dir
from mergekit_optimer.vectors.fingerprint import file_sha256, model_fingerprint
from mergekit_optimer.vectors.record import (
    FORMAT_VERSION,
    RECORD,
    DistributionVector,
    Provenance,
    check_files,
    load_vector,
)
from mergekit_optimer.vectors.vector import TRAINING_RECORD, model_files

log = logging.getLogger(__name__)


def vector_key(source: str, source_dir: Path, base_dir: Path, dtype: str, with_code: bool = False) -> str:
    """What a vector is made from, as a hash: all that its files and its record's facts depend on.

    Args:
        source: Fingerprint of the checkpoint (with its tokenizer's) or adapter.
        source_dir: Its folder, for the training record that it may have.
        with_code: Whether code shipped with the base goes along.
    """
    training = source_dir / TRAINING_RECORD
    copied = {file.name: file_sha256(file) for file in model_files(base_dir, with_code)}
    trained = file_sha256(training) if training.exists() else None
    return content_hash([FORMAT_VERSION, source, model_fingerprint(base_dir), copied, dtype, trained])


def make_or_link(
    key: str,
    folder: Path,
    name: str,
    base_label: str,
    provenance: Provenance,
    make: Callable[[], DistributionVector],
    cache_dir: Path | None = None,
) -> DistributionVector:
    """Put a vector into a folder: linked from the cache where it is there and whole, else made and kept.

    Args:
        key: See ``vector_key``.
        folder: Does not exist yet.
        name: What it is called here; ``base_label`` and ``provenance`` alike may differ from when it was made.
        make: Writes the vector into ``folder``.
        cache_dir: Where vectors are kept; None for the user's cache.

    Raises:
        OptimerError: What ``make`` raises.
        RunFolderError: ``folder`` exists.
    """
    entry = (cache_dir or user_cache_dir() / "vectors") / key
    kept = _kept(entry)
    if kept is not None:
        link_folder(entry, folder)
        vector = replace(kept, name=name, base_label=base_label, **asdict(provenance))
        # A new file in place of the link: the entry's own record stays.
        write_json(folder / RECORD, vector.to_json())
        log.info("vector %s: made before, linked from %s", name, entry)
        return vector
    vector = make()
    try:
        discard(entry)
        link_folder(folder, entry)
    except (OSError, OptimerError) as error:
        log.warning("vector %s cannot be kept for other runs: %s", name, error)
    return vector


def _kept(entry: Path) -> DistributionVector | None:
    if not entry.exists():
        return None
    try:
        vector = load_vector(entry)
        check_files(entry, vector)
    except (OSError, OptimerError) as error:
        log.warning("a kept vector is damaged and made again: %s", error)
        return None
    return vector
