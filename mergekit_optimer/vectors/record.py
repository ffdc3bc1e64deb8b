"""The record of a distribution vector, distribution_vector.json: what it belongs to and what its files are.

It may come from anybody, so nothing in it is believed before it is checked, and no name in it leads out of its folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import VectorError
from mergekit_optimer.files import read_json
from mergekit_optimer.vectors.fingerprint import file_sha256
from mergekit_optimer.vectors.inside import checked_file_name, file_inside

FORMAT_VERSION = 2
RECORD = "distribution_vector.json"
# What a merged model may be stored in: the applied fraction is known for each.
OUTPUT_DTYPES = ("bfloat16", "float16", "float32")
# Files that decide what a vector is: one of them that the record does not name was put in later.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True)
class Provenance:
    """Where a vector's parts can be had; None for what is only local or not known.

    Attributes:
        base_repo: Hub repository of the base.
        base_revision: Its commit.
        dataset: What the dataset is called: repo@sha, or a file's name.
        dataset_repo: Hub repository of the dataset.
        dataset_revision: Its commit.
        source: What the vector was made from where it was not trained: a checkpoint or adapter, as repo@sha or a name.
    """

    base_repo: str | None = None
    base_revision: str | None = None
    dataset: str | None = None
    dataset_repo: str | None = None
    dataset_revision: str | None = None
    source: str | None = None


NOT_KNOWN = Provenance()


@dataclass(frozen=True)
class DistributionVector:
    """The record of a vector.

    Attributes:
        name: Name in the pool.
        base_label: What the base is called: repo@sha, or a folder's name.
        base_fingerprint: ``model_fingerprint`` of the base that was subtracted.
        tokenizer_fingerprint: Of the base's tokenizer, which the checkpoint's equals.
        dtype: Storage dtype of the delta, "float32" or "bfloat16".
        norm: Euclidean norm of tau over all parameters.
        base_norm: Euclidean norm of the base.
        norms: Norm of tau by module kind.
        applied_fraction: By output dtype, then "total" and module kind: <round(theta_0 + tau) - theta_0, tau> /
            <tau, tau>, the share of the vector that survives storage at that dtype (1 is all of it).
        training: The training record where the checkpoint has one.
        files: sha256 by file name.
        format_version: Of the record; one that was read is as new as one that was made.

    The rest is as in ``Provenance``; all None in records of format 1.
    """

    name: str
    base_label: str
    base_fingerprint: str
    tokenizer_fingerprint: str
    dtype: str
    norm: float
    base_norm: float
    norms: dict[str, float]
    applied_fraction: dict[str, dict[str, float]]
    training: dict[str, Any] | None = None
    files: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    base_repo: str | None = None
    base_revision: str | None = None
    dataset: str | None = None
    dataset_repo: str | None = None
    dataset_revision: str | None = None
    source: str | None = None

    @property
    def relative_norm(self) -> float:
        return self.norm / self.base_norm if self.base_norm else math.inf

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_SINCE_2 = frozenset(part.name for part in fields(Provenance))
# What tables and cards say of the training.
_TRAINING_NUMBERS = ("n_tokens_trained", "n_steps", "learning_rate")
_TEXTS = ("name", "base_label", "base_fingerprint", "tokenizer_fingerprint", "dtype")


def load_vector(folder: Path) -> DistributionVector:
    """Read a vector's record.

    Raises:
        VectorError: The folder is no distribution vector, or of a newer format, or its record holds what no record
            holds.
        RunFolderError: The record is no JSON.
    """
    path = folder / RECORD
    if not path.exists():
        raise VectorError(f"{folder} holds no {RECORD}; make one with `mergekit-optimer vectors extract`.")
    try:
        data = read_json(file_inside(folder, RECORD))
    except (ValueError, RecursionError) as error:
        raise VectorError(f"{path} is damaged; extract or pull the vector again.") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= FORMAT_VERSION:
        raise VectorError(
            f"{path} has format {version}; this version reads 1 to {FORMAT_VERSION}. Update mergekit-optimer."
        )
    problem = _problem(data, version)
    if problem is not None:
        raise VectorError(f"{path} is damaged ({problem}); extract or pull the vector again.")
    return DistributionVector(**{**data, "format_version": FORMAT_VERSION})


def check_files(folder: Path, vector: DistributionVector) -> None:
    """Compare each file of a vector with its recorded sha256. Nothing outside the folder is read.

    Raises:
        VectorError: A file is missing, differs, lies elsewhere, or is not recorded though it holds weights.
    """
    for file, expected in sorted(vector.files.items()):
        if checked_file_name(file) is None or not (folder / file).exists():
            raise VectorError(f"Vector '{vector.name}' lacks its file {file!r}; extract or pull it again.")
        if file_sha256(file_inside(folder, file)) != expected:
            raise VectorError(f"{folder / file} is not what was recorded (sha256 differs); extract or pull it again.")
    there = sorted(path.name for pattern in _WEIGHTS for path in folder.glob(pattern))
    extra = [name for name in there if name not in vector.files]
    if extra:
        raise VectorError(f"{folder / extra[0]} is not in the vector's record; extract or pull the vector again.")


def _problem(data: Mapping[str, Any], version: int) -> str | None:
    """What is wrong with a record of a known format, None where nothing is."""
    known = {part.name for part in fields(DistributionVector)} - (_SINCE_2 if version == 1 else set())
    needed = known - {"training", "files"} - _SINCE_2
    if unknown := sorted(set(data) - known):
        return f"unknown key {unknown[0]!r}"
    if lacking := sorted(needed - set(data)):
        return f"{lacking[0]} is missing"
    texts = [(key, data[key]) for key in _TEXTS]
    texts += [(key, data[key]) for key in sorted(_SINCE_2) if data.get(key) is not None]
    for key, value in texts:
        if not isinstance(value, str) or not value.isprintable() or len(value) > 300:
            return f"{key} is no text of one line"
    if checked_file_name(data["name"]) is None:
        return f"{data['name'][:60]!r} is no name"
    for key in ("norm", "base_norm"):
        if not _is_size(data[key]):
            return f"{key} is no finite number"
    if not _holds(data["norms"], _is_size):
        return "norms holds no finite numbers"
    if set(OUTPUT_DTYPES) - set(data["applied_fraction"] if isinstance(data["applied_fraction"], dict) else ()):
        return "applied_fraction lacks a dtype"
    if not all(_holds(kinds, _is_number) and "total" in kinds for kinds in data["applied_fraction"].values()):
        return "applied_fraction holds no finite numbers"
    if not _holds(data.get("files", {}), lambda value: isinstance(value, str)):
        return "files is no list of names and hashes"
    training = data.get("training")
    if not isinstance(training, dict | None):
        return "training is no record"
    wrong = [key for key in _TRAINING_NUMBERS if not _is_number((training or {}).get(key, 0))]
    return f"training.{wrong[0]} is no finite number" if wrong else None


def _holds(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(is_right(child) for child in value.values())


def _is_number(value: Any) -> bool:
    # A comparison also holds for NaN, Inf and integers that are too long for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(abs(value) < 1e300)


def _is_size(value: Any) -> bool:
    return _is_number(value) and bool(value >= 0)
