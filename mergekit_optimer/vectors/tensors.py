"""Tensors of a model folder, opened one at a time from memory-mapped safetensors. Never reads a pickle."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer.errors import VectorError

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
KINDS = ("embeddings", "attention", "mlp", "norms", "other")

# Buffers that old checkpoints carry and transformers no longer writes; they are derived, not trained.
_DERIVED = ("rotary_emb.inv_freq", "attn.masked_bias", "attention.masked_bias")


def module_kind(tensor_name: str) -> str:
    """Sort a tensor into embeddings, attention, mlp, norms or other by its name."""
    name = tensor_name.lower()
    if "norm" in name or "ln_" in name:
        return "norms"
    if any(word in name for word in ("embed", "wte", "wpe", "lm_head")):
        return "embeddings"
    if "attn" in name or "attention" in name:
        return "attention"
    if any(word in name for word in ("mlp", "ffn", "feed_forward", "expert", ".fc")):
        return "mlp"
    return "other"


def layer_of(tensor_name: str) -> int | None:
    """The number of the layer a tensor belongs to, by its name; None for embeddings, final norm and the like."""
    found = re.search(r"(?:^|\.)(\d+)\.", tensor_name)
    return int(found[1]) if found else None


class TensorFolder:
    """The tensors of one model folder by name, from one safetensors file or from shards with their index.

    A tensor is a view of the mapped file: reading one costs its own size at most, and only while it is held.
    """

    def __init__(self, folder: Path) -> None:
        """Open a model folder.

        Raises:
            VectorError: No folder, no safetensors, a shard is missing, or index or file is damaged.
        """
        self.folder = folder
        self._files: dict[str, Any] = {}
        self._file_of = self._find()
        self.names = sorted(self._file_of)

    def _find(self) -> dict[str, str]:
        if not self.folder.is_dir():
            raise VectorError(f"{self.folder} is no folder; give the folder that holds the model's safetensors.")
        if (self.folder / INDEX).exists():
            weight_map = _read_index(self.folder / INDEX)
        elif (self.folder / SINGLE).exists():
            weight_map = dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
        else:
            if any(self.folder.glob("*.bin")):
                raise VectorError(
                    f"{self.folder} holds only pickled weights, which can run code; save it as safetensors with "
                    "save_pretrained, or set allow_pickle: true where the recipe names it."
                )
            raise VectorError(f"{self.folder} holds no model.safetensors; save it as safetensors with save_pretrained.")
        for shard in sorted(set(weight_map.values())):
            held = set(self._open(shard).keys())
            missing = sorted(name for name, file in weight_map.items() if file == shard and name not in held)
            if missing:
                raise VectorError(f"{self.folder / shard} lacks {missing[0]}, which its index names; fetch it again.")
        return {name: file for name, file in weight_map.items() if not name.endswith(_DERIVED)}

    def _open(self, file: str) -> Any:
        from safetensors import SafetensorError, safe_open

        if Path(file).name != file or file in ("", ".."):
            raise VectorError(f"{self.folder / INDEX} points outside its folder ({file}); do not use it.")
        if file not in self._files:
            path = self.folder / file
            try:
                self._files[file] = safe_open(str(path), framework="pt")
            except FileNotFoundError as error:
                raise VectorError(f"{path} is missing; fetch the model again.") from error
            except OSError as error:
                raise VectorError(f"{path} cannot be read ({error}); fetch the model again.") from error
            except SafetensorError as error:
                raise VectorError(f"{path} is truncated or no safetensors file ({error}); fetch it again.") from error
        return self._files[file]

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._open(self._file_of[name]).get_slice(name).get_shape())

    def get(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._open(self._file_of[name]).get_tensor(name)
        return tensor

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) in name order."""
        for name in self.names:
            yield name, self.get(name)

    @property
    def files(self) -> list[Path]:
        """The safetensors files, sorted."""
        return [self.folder / file for file in sorted(set(self._file_of.values()))]

    @property
    def dtypes(self) -> list[str]:
        """The float dtypes of the tensors, by name, sorted."""
        return sorted({dtype_name(tensor.dtype) for _, tensor in self.items() if tensor.is_floating_point()})


def _read_index(path: Path) -> dict[str, str]:
    """Return the shard of each tensor."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VectorError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise VectorError(f"{path} is no index of safetensors files (it is not JSON); fetch it again.") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise VectorError(
            f"{path} is no index of safetensors files (its weight_map does not name a file for each tensor); "
            "fetch it again."
        )
    return weight_map


def dtype_name(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")
