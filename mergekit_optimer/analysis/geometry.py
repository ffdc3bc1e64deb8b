"""How the vectors of a pool lie to each other and to the base: norms and cosines, in all and by kind and layer.

Reported for OptiMer (arXiv 2603.28858): vectors of different data are nearly orthogonal, with cosines of 0.03 to 0.31.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mergekit_optimer.vectors import VectorPool, gram_matrices, layer_of, module_kind

TOTAL = "total"
_LAYER = "layer "

Cosines = dict[str, dict[str, float]]


@dataclass(frozen=True)
class VectorSize:
    """How large a vector is.

    Attributes:
        relative_norm: ``norm`` over the base's.
        norms: By module kind.
        applied_fraction: The share of it that survives storage in the base's dtype.
    """

    norm: float
    relative_norm: float
    norms: dict[str, float]
    applied_fraction: float


@dataclass(frozen=True)
class Geometry:
    """A pool in numbers.

    Attributes:
        cosines: By "total" and module kind.
        cosines_by_layer: By the layer's number as text, in the order of the layers; ``norms_by_layer`` alike.
    """

    vectors: dict[str, VectorSize]
    cosines: dict[str, Cosines]
    cosines_by_layer: dict[str, Cosines]
    norms_by_layer: dict[str, dict[str, float]]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of different vectors, each once."""
        names = sorted(self.vectors)
        return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]

    @property
    def sentence(self) -> str:
        """How near to orthogonal the pool is."""
        values = [self.cosines[TOTAL][a][b] for a, b in self.pairs]
        if not values:
            return "The pool has one vector, so there is no cosine."
        least, most = min(values), max(values)
        # Of random directions in so many dimensions all cosines would be 0.
        near = "nearly orthogonal" if max(abs(least), abs(most)) < 0.35 else "not orthogonal"
        return (
            f"The {len(self.vectors)} vectors are {near}: their cosines are {least:+.2f} to {most:+.2f} "
            "(reported in arXiv 2603.28858: 0.03 to 0.31)."
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"sentence": self.sentence}

    def rows(self) -> list[dict[str, Any]]:
        """One row a pair and group; a vector with itself has its norm there, over all also relative, and cosine 1."""
        names = sorted(self.vectors)
        groups = dict(self.cosines) | {f"{_LAYER}{n}": cosines for n, cosines in self.cosines_by_layer.items()}
        return [
            {"group": group, "vector": a, "other": b, "cosine": cosines[a][b], "norm": self._norm(group, a, b)}
            | {"relative_norm": self.vectors[a].relative_norm if a == b and group == TOTAL else None}
            for group, cosines in groups.items()
            for i, a in enumerate(names)
            for b in names[i:]
        ]

    def _norm(self, group: str, a: str, b: str) -> float | None:
        if a != b:
            return None
        if group.startswith(_LAYER):
            return self.norms_by_layer[group.removeprefix(_LAYER)][a]
        return self.vectors[a].norm if group == TOTAL else self.vectors[a].norms.get(group, 0.0)


def pool_geometry(pool: VectorPool, dtype: str) -> Geometry:
    """Measure a pool, reading each tensor once.

    Args:
        dtype: The base's, in which merged models are stored.
    """

    def groups_of(tensor_name: str) -> list[str]:
        layer = layer_of(tensor_name)
        # Padded, so that layers sort as numbers.
        return [TOTAL, module_kind(tensor_name), *([] if layer is None else [f"{_LAYER}{layer:06d}"])]

    found = gram_matrices(pool, groups_of)
    layers = {str(int(group.removeprefix(_LAYER))): one for group, one in found.items() if group.startswith(_LAYER)}
    return Geometry(
        vectors={
            name: VectorSize(vector.norm, vector.relative_norm, vector.norms, vector.applied_fraction[dtype]["total"])
            for name, vector in pool.vectors.items()
        },
        cosines={group: one.cosines for group, one in found.items() if not group.startswith(_LAYER)},
        cosines_by_layer={layer: one.cosines for layer, one in layers.items()},
        norms_by_layer={layer: one.norms for layer, one in layers.items()},
    )
