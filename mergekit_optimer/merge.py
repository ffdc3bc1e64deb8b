"""Merge weights -> mergekit YAML -> model folder, through mergekit's own run_merge. Searches and scores nothing."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mergekit_optimer.errors import MergeError, NotFiniteError, OptimerError
from mergekit_optimer.files import new_folder
from mergekit_optimer.machine import disk_problem, memory_named
from mergekit_optimer.method import METHOD, check_parameters, register
from mergekit_optimer.vectors import TensorFolder

Label = Callable[[str], str]


@dataclass(frozen=True)
class Ingredient:
    """A vector as mergekit is to read it, by paths.

    Attributes:
        delta: Folder that holds tau.
        checkpoint: Folder of theta_i, where there is one: the portable twin prefers it.
        base: Folder of the checkpoint's own base B_i; None where it is the destination's base.
    """

    delta: str
    checkpoint: str | None = None
    base: str | None = None


def merge_yaml(
    base: str, vectors: Mapping[str, Ingredient], weights: Mapping[str, float], out_dtype: str, label: Label = str
) -> str:
    """Return the configuration of theta_0 + sum_i w_i tau_i for ``distribution_arithmetic``, vectors in name order.

    Args:
        label: What the configuration calls a folder; its path where omitted.

    Raises:
        MergeError: Weights and vectors do not name the same things, or a weight is not finite.
    """
    _check_weights(vectors, weights)
    models = [
        {
            "model": label(vectors[name].delta),
            "parameters": {"weight": float(weights[name]), "kind": "delta", "name": name},
        }
        for name in sorted(vectors)
    ]
    return _dump({"merge_method": METHOD, "base_model": label(base), "out_dtype": out_dtype, "models": models})


def portable_yaml(
    base: str, vectors: Mapping[str, Ingredient], weights: Mapping[str, float], out_dtype: str, label: Label = str
) -> str:
    """Return a configuration of the same merge for plain mergekit, without this package.

    Where every vector has its checkpoint: ``task_arithmetic`` over checkpoints, an own base B_i entering with weight
    -w_i. Else ``linear`` without normalisation, which takes deltas as they are. Sums in float32; the two agree with
    ``merge_yaml`` to the rounding of float32.

    Raises:
        MergeError: As merge_yaml.
    """
    _check_weights(vectors, weights)
    # mergekit takes a folder once, so what stands for several vectors is summed by its path.
    sums: dict[str, float] = {}
    plain = all(vector.checkpoint is not None for vector in vectors.values())
    for name in sorted(vectors):
        vector, weight = vectors[name], float(weights[name])
        source = vector.checkpoint or vector.delta
        sums[source] = sums.get(source, 0.0) + weight
        if vector.checkpoint is not None:
            subtracted = vector.base or base
            sums[subtracted] = sums.get(subtracted, 0.0) - weight
    on_base = sums.pop(base, 0.0)
    if not plain:
        # linear knows no base: its weight is 1 less what was subtracted with the checkpoints over it.
        sums = {base: 1.0 + on_base, **sums}
    models = [{"model": label(source), "parameters": {"weight": weight}} for source, weight in sums.items()]
    config = {
        "merge_method": "task_arithmetic" if plain else "linear",
        "base_model": label(base),
        "dtype": "float32",
        "out_dtype": out_dtype,
        "parameters": {"normalize": False},
        "models": models,
    }
    return _dump(config)


def stock_yaml(method: str, base: str, checkpoints: list[str], out_dtype: str, density: float = 0.5) -> str:
    """Return a stock mergekit baseline (``ties`` or ``dare_linear``) of checkpoints at uniform weights 1/K.

    Half of each vector is kept (density 0.5); normalisation is mergekit's default of the method.
    """
    models = [
        {"model": checkpoint, "parameters": {"weight": 1.0 / len(checkpoints), "density": density}}
        for checkpoint in checkpoints
    ]
    config = {"merge_method": method, "base_model": base, "dtype": "float32", "out_dtype": out_dtype, "models": models}
    return _dump(config)


def merge_to_folder(
    yaml_text: str, out_dir: Path, *, device: str = "cpu", seed: int = 0, trust_remote_code: bool = False
) -> Path:
    """Run a mergekit configuration into a new folder: whole, or not there.

    Raises:
        MergeError: mergekit refuses the configuration, or tensors of the base are missing from the result.
        NotFiniteError: The result holds NaN or Inf.
        RunFolderError: ``out_dir`` exists.
        InfrastructureError: Memory or disk gave out.
    """
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    register()
    config = yaml.safe_load(yaml_text)
    check_parameters(config)
    # The card would call the Hub for local paths; cards are our own.
    options = MergeOptions(
        device=device,
        random_seed=seed,
        quiet=True,
        write_model_card=False,
        copy_tokenizer=True,
        trust_remote_code=trust_remote_code,
    )
    with new_folder(out_dir) as work, mergekit_named(f"merging into {out_dir.name}"):
        with _quiet_mergekit():
            run_merge(MergeConfiguration.model_validate(config), str(work), options, config_source=yaml_text)
        check_merged(work, Path(str(config["base_model"])))
    return out_dir


@contextmanager
def mergekit_named(work: str) -> Iterator[None]:
    """Turn what mergekit raises into a sentence, and forget what it has loaded.

    Raises:
        MergeError: mergekit refused the merge.
        InfrastructureError: Memory gave out.
    """
    from mergekit.io.tasks import LoaderCache

    try:
        with memory_named(work):
            yield
    except OptimerError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        if disk_problem(error) is not None:
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MergeError(f"mergekit refused the merge: {reason}") from error
    finally:
        # mergekit keeps loaders by path for ever: a folder written again would be read stale.
        LoaderCache().loaders.clear()


def check_merged(merged_dir: Path, base_dir: Path) -> None:
    """Check that a merged folder holds the base's tensors (mergekit drops what its tables lack), and all finite.

    Raises:
        MergeError: A tensor is missing.
        NotFiniteError: A tensor holds NaN or Inf.
    """
    merged, base = TensorFolder(merged_dir), TensorFolder(base_dir)
    tied = json.loads((base_dir / "config.json").read_text(encoding="utf-8")).get("tie_word_embeddings", False)
    missing = [n for n in base.names if n not in merged and not (tied and n.endswith("lm_head.weight"))]
    if missing:
        raise MergeError(
            f"mergekit left out {missing[0]} ({len(missing)} tensors of the base): it does not know this architecture "
            "fully. Merge the raw tensors with mergekit-pytorch, or report the architecture to mergekit."
        )
    for name, tensor in merged.items():
        # Only here: the method sees float32, and the cast to a narrow output dtype comes after it.
        if not bool(tensor.isfinite().all()):
            raise NotFiniteError(f"The merge gives NaN or Inf in {name}; the weights are too large for {tensor.dtype}.")


def _check_weights(vectors: Mapping[str, Ingredient], weights: Mapping[str, float]) -> None:
    if set(vectors) != set(weights):
        raise MergeError(f"Weights for {sorted(weights)}, but the pool holds {sorted(vectors)}.")
    wrong = [name for name, weight in sorted(weights.items()) if not math.isfinite(weight)]
    if wrong:
        raise MergeError(f"The weight of '{wrong[0]}' is {weights[wrong[0]]}; weights must be finite numbers.")


@contextmanager
def _quiet_mergekit() -> Iterator[None]:
    """Hold back INFO lines, as a search merges hundreds of times, and what transformers says of mergekit's calls."""
    held = {logging.getLogger("mergekit"): logging.WARNING, logging.getLogger("transformers"): logging.ERROR}
    levels = {logger: logger.level for logger in held}
    try:
        for logger, level in held.items():
            logger.setLevel(level)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _dump(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
