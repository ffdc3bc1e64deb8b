"""safetensors files written tensor by tensor: the library's save_file wants all of a file's tensors in memory at once.

The bytes are the ones save_file would write (a test compares them), in shards under transformers' file names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mergekit_optimer.vectors.tensors import INDEX, SINGLE

if TYPE_CHECKING:
    import torch

# transformers' own default for a shard.
SHARD_BYTES = 5 * 10**9
_DTYPES = {"float32": ("F32", 4), "bfloat16": ("BF16", 2)}


def write_tensors(
    tensors: Iterable[tuple[str, torch.Tensor]], shapes: Mapping[str, tuple[int, ...]], dtype: str, folder: Path
) -> None:
    """Write tensors as they come; one at a time is in memory.

    Args:
        tensors: (name, tensor) in name order, all of ``dtype``.
        shapes: Shape of each tensor, known beforehand: a file begins with the places of all its tensors.
        dtype: "float32" or "bfloat16".
        folder: An existing folder; gets model.safetensors, or shards with their index.
    """
    code, item_bytes = _DTYPES[dtype]
    sizes = {name: math.prod(shapes[name]) * item_bytes for name in sorted(shapes)}
    shards = _plan(sizes)
    incoming = iter(tensors)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (folder / file).open("wb") as out:
            out.write(_header({name: (shapes[name], sizes[name]) for name in names}, code))
            for expected in names:
                name, tensor = next(incoming)
                if name != expected:
                    raise ValueError(f"tensors must come in name order: {name} before {expected}")
                out.write(_bytes(tensor))
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True), encoding="utf-8")


def _plan(sizes: Mapping[str, int]) -> list[list[str]]:
    """Divide names in order into shards of at most SHARD_BYTES (a larger tensor has one of its own)."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _header(tensors: Mapping[str, tuple[tuple[int, ...], int]], code: str) -> bytes:
    """Length and JSON header of a file. Source: the format's description in the safetensors README."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, size) in tensors.items():
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
