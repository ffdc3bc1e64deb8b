"""The sum of one tensor block by block, with torch alone and on any device."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Of 2**17 to 2**21 the fastest on two cores: smaller blocks wait for torch's threads, larger ones leave the cache.
CPU_BLOCK = 1 << 20
# A GPU wants few, large launches.
GPU_BLOCK = 1 << 26

_scratch = threading.local()


@dataclass(frozen=True)
class Term:
    """One vector's share of a sum: weight * (tensor - reference), or weight * tensor where reference is None."""

    weight: float
    tensor: torch.Tensor
    reference: torch.Tensor | None = None


def add_in_blocks(base: torch.Tensor, terms: Sequence[Term], out: torch.Tensor) -> None:
    """Write base + the sum of at least one term to a contiguous ``out``; shapes are equal, weights are not 0."""
    import torch

    dtype = torch.promote_types(base.dtype, torch.float32)
    step = min(CPU_BLOCK if base.device.type == "cpu" else GPU_BLOCK, max(base.numel(), 1))
    total, converted = _buffers(step, dtype, base.device)

    # On a GPU an addition itself widens its operands and narrows its result; a CPU copies them first.
    fuses = base.device.type == "cuda"

    def exact(block: torch.Tensor) -> torch.Tensor:
        return block if block.dtype == dtype else converted[: len(block)].copy_(block)

    # Views made once: slicing block by block costs more than adding a block.
    blocks = [
        (term.weight, _split(term.tensor, step), None if term.reference is None else _split(term.reference, step))
        for term in terms
    ]
    for number, (from_base, into) in enumerate(zip(_split(base, step), out.view(-1).split(step), strict=True)):
        sums = total[: len(into)]
        for place, (weight, tensors, references) in enumerate(blocks):
            if references is not None:
                shift = converted[: len(into)].copy_(tensors[number]).sub_(references[number])
            elif fuses and place and torch.promote_types(tensors[number].dtype, dtype) == dtype:
                shift = tensors[number]
            else:
                shift = exact(tensors[number])
            if place == 0:
                torch.mul(shift, weight, out=sums)
            else:
                sums.add_(shift, alpha=weight)
        if fuses:
            torch.add(sums, from_base, out=into)
        elif into.dtype == dtype:
            torch.add(sums, exact(from_base), out=into)
        else:
            into.copy_(sums.add_(exact(from_base)))


def _split(tensor: torch.Tensor, step: int) -> tuple[torch.Tensor, ...]:
    parts: tuple[torch.Tensor, ...] = tensor.reshape(-1).split(step)
    return parts


def _buffers(step: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Two blocks to sum in; on a CPU kept for each thread, because fresh memory costs as much as the sum."""
    import torch

    if device.type != "cpu":
        return torch.empty(step, dtype=dtype, device=device), torch.empty(step, dtype=dtype, device=device)
    kept: dict[torch.dtype, torch.Tensor] = _scratch.__dict__.setdefault("kept", {})
    if dtype not in kept or kept[dtype].shape[1] < step:
        kept[dtype] = torch.empty(2, step, dtype=dtype)
    return kept[dtype][0], kept[dtype][1]
