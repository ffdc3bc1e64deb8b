"""A base, two vectors over it in two dtypes, a live model, and what mergekit makes of them. Asserts nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mergekit_optimer.evaluate import load_model
from mergekit_optimer.merge import Ingredient, merge_to_folder, merge_yaml
from mergekit_optimer.resident import ResidentMerge
from mergekit_optimer.vectors import extract_vector

Maker = Callable[..., Path]
WEIGHTS = [
    {"ja": 0.8, "math": -0.35},
    {"ja": 0.0, "math": 1.0},
    {"ja": -1.25, "math": 0.1},
    {"ja": 0.0, "math": 0.0},
    {"ja": 0.5, "math": 0.5},
]


class Pool:
    """A base, two vectors over it, and a live model."""

    def __init__(self, make: Maker, folder: Path, arch: str = "llama", **options: Any) -> None:
        self.base = make(f"base-{folder.name}", arch=arch, **options)
        kept = {key: value for key, value in options.items() if key != "dtype"}
        self.vectors = {}
        for seed, name in enumerate(("ja", "math"), 1):
            checkpoint = make(f"{name}-{folder.name}", arch=arch, seed=seed, **kept)
            # One vector in each storage dtype.
            dtype = "bfloat16" if name == "math" else "float32"
            extract_vector(name, checkpoint, self.base, folder / name, "base", dtype)
            self.vectors[name] = folder / name
        self.model = load_model(self.base, "cpu")

    def resident(self) -> ResidentMerge:
        return ResidentMerge(self.model, self.base, self.vectors)

    def merged(self, weights: dict[str, float], out_dir: Path, dtype: str) -> torch.nn.Module:
        """What mergekit writes for these weights, loaded."""
        ingredients = {name: Ingredient(str(path)) for name, path in self.vectors.items()}
        merge_to_folder(merge_yaml(str(self.base), ingredients, weights, dtype), out_dir)
        return load_model(out_dir, "cpu")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])


def same(model: torch.nn.Module, expected: torch.nn.Module) -> bool:
    """Whether two models hold the same bits under the same names, wherever they lie."""
    ours, theirs = model.state_dict(), expected.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == tensor.dtype and torch.equal(bits(ours[name]), bits(tensor))
        for name, tensor in theirs.items()
    )


def loss(model: torch.nn.Module) -> torch.Tensor:
    ids = (torch.arange(24) * 7 % 384)[None]
    with torch.enable_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1]
        # transformers' own loss is float32 whatever the model.
        return torch.nn.functional.cross_entropy(logits, ids[0, 1:])
