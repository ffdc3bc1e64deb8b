"""The vector pool: distribution vectors over one base, checked against it, with their norms and cosines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import VectorError
from mergekit_optimer.vectors.fingerprint import model_fingerprint, tokenizer_fingerprint
from mergekit_optimer.vectors.record import DistributionVector, check_files, load_vector
from mergekit_optimer.vectors.tensors import TensorFolder, module_kind
from mergekit_optimer.vectors.vector import check_finite, check_tensors

# Elements of each vector that are held in float64 at a time.
_BLOCK = 1 << 18


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
    """Pairwise cosines: {"total" or module kind: {vector: {vector: cosine}}}; 0 where a vector did not move."""
    return {group: one.cosines for group, one in gram_matrices(pool, lambda name: ["total", module_kind(name)]).items()}


@dataclass(frozen=True)
class Gram:
    """Inner products of a pool's vectors over some of their tensors.

    Attributes:
        products: By pair, the first in name order before the second.
    """

    products: dict[tuple[str, str], float]

    @property
    def names(self) -> list[str]:
        return sorted({name for name, _ in self.products})

    @property
    def norms(self) -> dict[str, float]:
        return {name: math.sqrt(self.products[name, name]) for name in self.names}

    @property
    def cosines(self) -> dict[str, dict[str, float]]:
        """Of each pair; 0 where a vector did not move there."""
        return {a: {b: self._cosine(a, b) for b in self.names} for a in self.names}

    def _cosine(self, a: str, b: str) -> float:
        norms = math.sqrt(self.products[a, a] * self.products[b, b])
        return self.products[min(a, b), max(a, b)] / norms if norms else 0.0


def gram_matrices(pool: VectorPool, groups_of: Callable[[str], list[str]]) -> dict[str, Gram]:
    """Inner products of all pairs of vectors, summed over the tensors of each group, groups in order.

    Streams tensor by tensor, and each in blocks, whose float64 copies are small.

    Args:
        groups_of: The groups that a tensor counts in, by its name.
    """
    import torch

    folders = {name: TensorFolder(folder) for name, folder in pool.folders.items()}
    names = list(folders)
    sums: dict[str, torch.Tensor] = {}
    for tensor_name in TensorFolder(pool.base_dir).names:
        parts = [folder.get(tensor_name).reshape(-1).split(_BLOCK) for folder in folders.values()]
        total = torch.zeros(len(names), len(names), dtype=torch.float64)
        for blocks in zip(*parts, strict=True):
            rows = torch.stack([block.double() for block in blocks])
            total += rows @ rows.T
        for group in groups_of(tensor_name):
            sums[group] = sums[group] + total if group in sums else total
    return {
        group: Gram({(a, b): float(total[i, j]) for i, a in enumerate(names) for j, b in enumerate(names) if a <= b})
        for group, total in sorted(sums.items())
    }


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
