"""Merge weights -> the data mixture they stand for: shares of tokens, and a recipe that trains it. Trains nothing.

share_i = max(w_i, 0) * tokens_i / sum_j max(w_j, 0) * tokens_j, where tokens_i is what the single run of the vector's
dataset saw: a vector counts as its training, scaled by its weight. Source: OptiMer, arXiv 2603.28858, whose weights,
read as mixture ratios, improved the mixture (as reported).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mergekit_optimer.errors import TrainError
from mergekit_optimer.recipe import LightevalTask, MixtureSpec, Recipe, Section, Source

_NEGATIVE = "the merge takes its direction away; a mixture can only leave its data out, so the two are not the same"
_ZERO = "the merge does without it, and so does the mixture"
_NO_DATA = "it came as a checkpoint, an adapter or a delta: its data are not in the recipe and cannot be mixed in"


@dataclass(frozen=True)
class LeftOut:
    """A vector whose dataset the mixture does not hold: its weight, and what that means."""

    weight: float
    meaning: str


@dataclass(frozen=True)
class Mixture:
    """A data mixture.

    Attributes:
        weights: The winner's merge weights, by vector.
        datasets: Dataset of each vector; None for one from elsewhere.
        tokens: Tokens that the single run of each vector's dataset saw; a vector from elsewhere has none here.
        shares: Share of the mixture's tokens by vector, positive, summing to 1.
        left_out: The other vectors.
    """

    weights: dict[str, float]
    datasets: dict[str, str | None]
    tokens: dict[str, int]
    shares: dict[str, float]
    left_out: dict[str, LeftOut]

    @property
    def dataset_shares(self) -> dict[str, float]:
        """Shares by dataset, as ``train.mixture.shares`` takes them; vectors of one dataset add up."""
        shares: dict[str, float] = {}
        for vector, share in self.shares.items():
            dataset = str(self.datasets[vector])
            shares[dataset] = shares.get(dataset, 0.0) + share
        return dict(sorted(shares.items()))

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole mixture: of all single runs of the pool's datasets, those left out too."""
        by_dataset = {self.datasets[vector]: n for vector, n in self.tokens.items()}
        return sum(by_dataset.values())

    def to_json(self) -> dict[str, Any]:
        """What analysis/mixture.json holds."""
        return {
            "weights": self.weights,
            "shares": self.shares,
            "left_out": {name: vars(one) for name, one in self.left_out.items()},
            "tokens": self.tokens,
            "mixture_tokens": {name: round(share * self.n_tokens) for name, share in self.shares.items()},
            "n_tokens": self.n_tokens,
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """The same as a table, a row a vector."""
        rows = []
        for name, weight in sorted(self.weights.items()):
            share, left_out = self.shares.get(name, 0.0), self.left_out.get(name)
            rows.append(
                {
                    "vector": name,
                    "dataset": self.datasets[name] or "",
                    "weight": weight,
                    "tokens": self.tokens.get(name, ""),
                    "share": share,
                    "mixture_tokens": round(share * self.n_tokens),
                    "left_out": left_out.meaning if left_out else "",
                }
            )
        return rows


def plan_mixture(
    weights: Mapping[str, float], datasets: Mapping[str, str | None], tokens: Mapping[str, int]
) -> Mixture:
    """Turn merge weights into shares of tokens.

    Args:
        weights: Finite, of any sign, by vector.
        datasets: Dataset of each vector; None for one that was not trained here.
        tokens: Tokens that each dataset's single run saw.

    Raises:
        TrainError: No vector that was trained here has a positive weight.
    """
    parts: dict[str, float] = {}
    left_out: dict[str, LeftOut] = {}
    for name, weight in sorted(weights.items()):
        dataset = datasets[name]
        if dataset is None:
            left_out[name] = LeftOut(weight, _NO_DATA)
        elif weight > 0:
            parts[name] = weight * tokens[dataset]
        else:
            left_out[name] = LeftOut(weight, _NEGATIVE if weight < 0 else _ZERO)
    total = math.fsum(parts.values())
    if not total > 0:
        shown = ", ".join(f"{name} {weight:+.4f}" for name, weight in sorted(weights.items()))
        raise TrainError(
            f"The winner gives no dataset a positive weight ({shown}), and a mixture needs one; "
            "`mergekit-optimer search` with another objective or interval may find one."
        )
    return Mixture(
        weights=dict(sorted(weights.items())),
        datasets=dict(sorted(datasets.items())),
        tokens={name: tokens[dataset] for name, dataset in sorted(datasets.items()) if dataset is not None},
        shares={name: part / total for name, part in parts.items()},
        left_out=left_out,
    )


def with_shares(recipe: Recipe, shares: Mapping[str, float]) -> Recipe:
    """Return the recipe with these shares for its data mixture."""
    assert recipe.train is not None
    section = recipe.train.model_copy(update={"mixture": MixtureSpec(shares=dict(shares))})
    return recipe.model_copy(update={"train": section})


def mixture_recipe(recipe: Recipe, mixture: Mixture, out_dir: Path) -> str:
    """Return a whole recipe whose ``data_mixture`` is this mixture, to be written into ``out_dir``.

    It trains on as many tokens as the study's: what its pool holds is the same. It names no repository to publish to,
    which would be the study's own.
    """
    mixed = with_shares(recipe, mixture.dataset_shares).model_copy(update={"name": f"{recipe.name[:56]}-mixture"})
    data = _moved(mixed, recipe, out_dir).model_dump(mode="json", exclude_unset=True)
    publish = {key: recipe.publish.model_dump(mode="json")[key] for key in ("private", "license", "language")}
    lines = [
        f"# The data mixture that the merge weights of {recipe.name} stand for: share = max(weight, 0) * tokens,",
        f"# normalised, on the {mixture.n_tokens:,} tokens of all its single runs. Paths are relative to this file.",
        "#     mergekit-optimer train mixture.yaml --mixture",
        *(f"# {name}: weight {mixture.weights[name]:+.4f}, share {x:.4f}" for name, x in mixture.shares.items()),
        *(f"# {name}: weight {one.weight:+.4f}, left out: {one.meaning}" for name, one in mixture.left_out.items()),
    ]
    text = yaml.safe_dump(data | {"publish": publish}, sort_keys=False, allow_unicode=True)
    return "\n".join(lines) + "\n" + text


def _moved(value: Any, recipe: Recipe, out_dir: Path) -> Any:
    """Return a part of the recipe with every relative path as seen from another folder."""
    if isinstance(value, dict):
        return {key: _moved(child, recipe, out_dir) for key, child in value.items()}
    if not isinstance(value, Section):
        return value
    field = "path" if isinstance(value, Source) else "file" if isinstance(value, LightevalTask) else None
    changes = {name: _moved(getattr(value, name), recipe, out_dir) for name in value.model_fields_set
               if isinstance(getattr(value, name), Section | dict)}  # fmt: skip
    place = getattr(value, field) if field else None
    if field and place is not None and not Path(place).is_absolute():
        changes[field] = os.path.relpath(recipe.resolve(place), out_dir)
    return value.model_copy(update=changes)
