"""Merge weights -> mergekit YAML -> model folder, through mergekit's own run_merge. Searches and scores nothing."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mergekit_optimer.errors import InfrastructureError, MergeError
from mergekit_optimer.method import METHOD, check_parameters, register
from mergekit_optimer.runs import new_folder
from mergekit_optimer.vectors import TensorFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ingredient:
    """A vector as mergekit is to read it.

    Attributes:
        delta: Folder (or label, for a card) that holds tau.
        checkpoint: Folder or label of theta_i, where there is one: the portable twin prefers it.
        base: Folder or label of the checkpoint's own base B_i; None where it is the destination's base.
    """

    delta: str
    checkpoint: str | None = None
    base: str | None = None


def merge_yaml(base: str, vectors: Mapping[str, Ingredient], weights: Mapping[str, float], out_dtype: str) -> str:
    """Return the configuration of theta_0 + sum_i w_i tau_i for ``distribution_arithmetic``, vectors in name order.

    Raises:
        MergeError: Weights and vectors do not name the same things, or a weight is not finite.
    """
    _check_weights(vectors, weights)
    models = [
        {
            "model": vectors[name].delta,
            "parameters": {"weight": float(weights[name]), "kind": "delta", "name": name},
        }
        for name in sorted(vectors)
    ]
    return _dump({"merge_method": METHOD, "base_model": base, "out_dtype": out_dtype, "models": models})


def portable_yaml(base: str, vectors: Mapping[str, Ingredient], weights: Mapping[str, float], out_dtype: str) -> str:
    """Return a configuration of the same merge for plain mergekit, without this package.

    Where every vector has its checkpoint: ``task_arithmetic`` over checkpoints, an own base B_i entering with weight
    -w_i. Else ``linear`` without normalisation, which takes deltas as they are. Sums in float32; the two agree with
    ``merge_yaml`` to the rounding of float32.

    Raises:
        MergeError: As merge_yaml.
    """
    _check_weights(vectors, weights)
    sums: dict[str, float] = {}
    for name in sorted(vectors):
        vector, weight = vectors[name], float(weights[name])
        source = vector.checkpoint or vector.delta
        sums[source] = sums.get(source, 0.0) + weight
        if vector.checkpoint is not None and vector.base is not None:
            sums[vector.base] = sums.get(vector.base, 0.0) - weight
    plain = all(vector.checkpoint is not None for vector in vectors.values())
    if not plain:
        on_base = [n for n, v in vectors.items() if v.checkpoint is not None and v.base is None]
        sums = {base: 1.0 - math.fsum(float(weights[n]) for n in on_base), **sums}
    models = [{"model": source, "parameters": {"weight": weight}} for source, weight in sums.items()]
    config = {
        "merge_method": "task_arithmetic" if plain else "linear",
        "base_model": base,
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


def merge_to_folder(yaml_text: str, out_dir: Path, *, device: str = "cpu", seed: int = 0) -> Path:
    """Run a mergekit configuration into a new folder: whole, or not there.

    Raises:
        MergeError: mergekit refuses the configuration, or tensors of the base are missing from the result.
        RunFolderError: ``out_dir`` exists.
        InfrastructureError: Memory or disk gave out.
    """
    import torch
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    register()
    config = yaml.safe_load(yaml_text)
    check_parameters(config)
    # The card would call the Hub for local paths; cards are our own.
    options = MergeOptions(device=device, random_seed=seed, quiet=True, write_model_card=False, copy_tokenizer=True)
    with new_folder(out_dir) as work:
        try:
            with _quiet_mergekit():
                run_merge(MergeConfiguration.model_validate(config), str(work), options, config_source=yaml_text)
        except MergeError:
            raise
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise InfrastructureError(f"Out of memory while merging into {out_dir}.") from error
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise MergeError(f"mergekit refused the merge: {str(error).splitlines()[0]}") from error
        finally:
            # mergekit keeps loaders by path for ever: a folder written again would be read stale.
            LoaderCache().loaders.clear()
        check_complete(work, Path(str(config["base_model"])))
    return out_dir


def check_complete(merged_dir: Path, base_dir: Path) -> None:
    """Check that a merged folder holds the base's tensors: mergekit drops what its architecture tables lack.

    Raises:
        MergeError: A tensor is missing.
    """
    merged, base = TensorFolder(merged_dir), TensorFolder(base_dir)
    tied = json.loads((base_dir / "config.json").read_text(encoding="utf-8")).get("tie_word_embeddings", False)
    missing = [n for n in base.names if n not in merged and not (tied and n.endswith("lm_head.weight"))]
    if missing:
        raise MergeError(
            f"mergekit left out {missing[0]} ({len(missing)} tensors of the base): it does not know this architecture "
            "fully. Merge the raw tensors with mergekit-pytorch, or report the architecture to mergekit."
        )


def _check_weights(vectors: Mapping[str, Ingredient], weights: Mapping[str, float]) -> None:
    if set(vectors) != set(weights):
        raise MergeError(f"Weights for {sorted(weights)}, but the pool holds {sorted(vectors)}.")
    wrong = [name for name, weight in sorted(weights.items()) if not math.isfinite(weight)]
    if wrong:
        raise MergeError(f"The weight of '{wrong[0]}' is {weights[wrong[0]]}; weights must be finite numbers.")


@contextmanager
def _quiet_mergekit() -> Iterator[None]:
    """Hold back mergekit's INFO lines: a search merges hundreds of times."""
    logger = logging.getLogger("mergekit")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _dump(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
