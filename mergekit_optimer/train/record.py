"""What a finished training says of itself: training_record.json beside the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergekit_optimer import files
from mergekit_optimer.errors import RunFolderError

RECORD_NAME = "training_record.json"


@dataclass(frozen=True)
class MixturePart:
    """What one dataset gave to a mixture.

    Attributes:
        wanted_share: Share of tokens asked for.
        realised_share: Share of tokens of the documents taken.
        n_documents: Documents taken, repeats counted.
        n_tokens: Their tokens, end-of-text included.
        n_passes: How often the dataset was read; above 1 it was too small and was repeated.
    """

    wanted_share: float
    realised_share: float
    n_documents: int
    n_tokens: int
    n_passes: float


@dataclass(frozen=True)
class TrainingRecord:
    """One training run.

    Attributes:
        name: Dataset of the recipe, or ``data_mixture``.
        inputs: SHA-256 of all that decides the result: options, data, base, seed, device and versions.
        base_fingerprint: Fingerprint of the base model's tensors.
        data_fingerprints: Fingerprint of each dataset's documents.
        n_documents: Documents in the data; in a mixture, repeats counted.
        n_tokens_in_data: Their tokens, end-of-text included; packing keeps all of them.
        n_tokens_trained: Tokens that passed through the model, over all epochs.
        n_steps: Optimiser steps.
        learning_rate: The peak rate.
        options: The SFTConfig options in force where they are not TRL's defaults.
        loss_curve: (step, mean training loss since the entry before).
        elapsed_s: Seconds in the training loop, over all sessions of an interrupted run.
        seed: The recipe's seed.
        device: Where it was trained.
        versions: Versions of the packages.
        mixture: Per dataset what it gave; None for a single dataset.
    """

    name: str
    inputs: str
    base_fingerprint: str
    data_fingerprints: dict[str, str]
    n_documents: int
    n_tokens_in_data: int
    n_tokens_trained: int
    n_steps: int
    learning_rate: float
    options: dict[str, Any]
    loss_curve: list[tuple[int, float]]
    elapsed_s: float
    seed: int
    device: str
    versions: dict[str, str]
    mixture: dict[str, MixturePart] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def finished_record(checkpoint_dir: Path) -> TrainingRecord | None:
    """The record of the training that a folder holds, None where it holds none that can be told."""
    if not (checkpoint_dir / RECORD_NAME).exists():
        return None
    try:
        return read_record(checkpoint_dir)
    except RunFolderError:
        return None


def read_record(checkpoint_dir: Path) -> TrainingRecord:
    """Read the record of a CPT checkpoint.

    Raises:
        RunFolderError: It is missing or damaged.
    """
    path = checkpoint_dir / RECORD_NAME
    data = files.read_json(path)
    try:
        data["loss_curve"] = [(int(step), float(loss)) for step, loss in data["loss_curve"]]
        if data["mixture"] is not None:
            data["mixture"] = {name: MixturePart(**part) for name, part in data["mixture"].items()}
        return TrainingRecord(**data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{path} is no training record of this version; train it again.") from error
