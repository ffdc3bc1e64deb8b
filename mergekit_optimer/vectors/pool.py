"""The vector pool: distribution vectors over one base, checked against it, with their norms and cosines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import VectorError
from mergekit_optimer.vectors.fingerprint import model_fingerprint, tokenizer_fingerprint
from mergekit_optimer.vectors.record import DistributionVector, check_files, load_vector
from mergekit_optimer.vectors.tensors import TensorFolder, module_kind
from mergekit_optimer.vectors.vector import check_finite, check_tensors


@dataclass(frozen=True)
class VectorPool:
    """Vectors over one base, in name order.

    Attributes:
        base_dir: The base model's folder.
        folders: Folder of each vector.
        vectors: Record of each vector.
    """

    base_dir: Path
    folders: dict[str, Path]
    vectors: dict[str, DistributionVector]

    @property
    def names(self) -> list[str]:
        return list(self.folders)


def load_pool(base_dir: Path, folders: dict[str, Path], own_bases: frozenset[str] = frozenset()) -> VectorPool:
    """Load vectors and check every one against the base before any use.

    Args:
        own_bases: Names of vectors that were subtracted from a base of their own, as the recipe says; their
            fingerprint may differ from ``base_dir``'s, their tensors and tokenizer may not.

    Raises:
        VectorError: A vector belongs to another base or tokenizer, misses a tensor, has another shape, holds NaN
            or Inf, or a file is not what was recorded.
    """
    base = TensorFolder(base_dir)
    fingerprint, tokenizer = model_fingerprint(base_dir), tokenizer_fingerprint(base_dir)
    vectors = {}
    for name, folder in sorted(folders.items()):
        vector = load_vector(folder)
        if vector.base_fingerprint != fingerprint and name not in own_bases:
            raise VectorError(
                f"Vector '{name}' was made from {vector.base_label} ({vector.base_fingerprint[:12]}), but the base "
                f"model here is {base_dir.name} ({fingerprint[:12]}). Use its own base, or make the vector again."
            )
        if vector.tokenizer_fingerprint != tokenizer:
            raise VectorError(f"Vector '{name}' was made with another tokenizer than the base model's.")
        check_files(folder, vector)
        tensors = TensorFolder(folder)
        check_tensors(f"vector '{name}'", tensors, base)
        for tensor_name, tensor in tensors.items():
            check_finite(f"vector '{name}'", tensor_name, tensor)
        vectors[name] = vector
    return VectorPool(base_dir, dict(sorted(folders.items())), vectors)


def cosines(pool: VectorPool) -> dict[str, dict[str, dict[str, float]]]:
    """Pairwise cosines: {"total" or module kind: {vector: {vector: cosine}}}; 0 where a vector did not move.

    Streams tensor by tensor: memory is one tensor of each vector.
    """
    folders = {name: TensorFolder(folder) for name, folder in pool.folders.items()}
    dots: dict[str, dict[tuple[str, str], float]] = {}
    for tensor_name in TensorFolder(pool.base_dir).names:
        tensors = {name: folder.get(tensor_name).double().reshape(-1) for name, folder in folders.items()}
        for a in folders:
            for b in folders:
                if a <= b:
                    product = float(tensors[a] @ tensors[b])
                    for key in ("total", module_kind(tensor_name)):
                        sums = dots.setdefault(key, {})
                        sums[a, b] = sums.get((a, b), 0.0) + product
    return {key: {a: {b: _cosine(sums, a, b) for b in folders} for a in folders} for key, sums in sorted(dots.items())}


def _cosine(sums: dict[tuple[str, str], float], a: str, b: str) -> float:
    norms = math.sqrt(sums[a, a] * sums[b, b])
    return sums[min(a, b), max(a, b)] / norms if norms else 0.0


def pool_table(pool: VectorPool) -> dict[str, Any]:
    """Norms, applied fractions and cosines of a pool as plain data."""
    return {
        "vectors": {
            name: {
                "norm": vector.norm,
                "relative_norm": vector.relative_norm,
                "norms": vector.norms,
                "applied_fraction": vector.applied_fraction,
                "dtype": vector.dtype,
                "base": vector.base_label,
            }
            for name, vector in pool.vectors.items()
        },
        "cosines": cosines(pool),
    }
