"""The sum of task arithmetic, in float32 and rounded once. Knows tensors and weights, not models or mergekit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergekit_optimer.errors import MergeError

if TYPE_CHECKING:
    import torch

# A CPU block and its two float32 buffers stay in the second-level cache; a GPU wants few, large launches.
CPU_BLOCK = 1 << 18
GPU_BLOCK = 1 << 26


@dataclass(frozen=True)
class Term:
    """One vector's share of a sum: weight * (tensor - reference), or weight * tensor where reference is None."""

    weight: float
    tensor: torch.Tensor
    reference: torch.Tensor | None = None


def add_vectors(base: torch.Tensor, terms: Sequence[Term]) -> torch.Tensor:
    """Add weighted distribution vectors to the base: theta = theta_0 + sum_i w_i tau_i.

    The shifts are summed first and the base is added last, so there is one rounding to the base's dtype; terms of
    weight 0 are skipped, so zero weights return the base bit for bit, and one term of weight 1 whose reference is
    the base returns its tensor bit for bit.

    Args:
        base: Tensor of any shape and float dtype. Not modified.
        terms: Summed in the order given; tensors of base's shape and device. Not modified.

    Returns:
        A new tensor of base's shape and dtype; the sum is taken in float32 (float64 for a float64 base).

    Raises:
        MergeError: A shape differs from base's.

    Source: Ilharco et al. 2022, arXiv 2212.04089, section 2; OptiMer, arXiv 2603.28858.
    """
    import torch

    for term in terms:
        for tensor in (term.tensor, term.reference):
            if tensor is not None and tensor.shape != base.shape:
                raise MergeError(f"A tensor of shape {tuple(tensor.shape)} cannot be added to {tuple(base.shape)}.")
    live = [
        (term.weight, term.tensor.reshape(-1), None if term.reference is None else term.reference.reshape(-1))
        for term in terms
        if term.weight != 0.0
    ]
    single = _is_the_checkpoint(base, terms)
    if single is not None:
        return single.clone()
    dtype = torch.promote_types(base.dtype, torch.float32)
    out = torch.empty(base.shape, dtype=base.dtype, device=base.device)
    flat_out, flat_base = out.view(-1), base.reshape(-1)
    n = flat_base.numel()
    step = min(CPU_BLOCK if base.device.type == "cpu" else GPU_BLOCK, max(n, 1))
    shift = torch.empty(step, dtype=dtype, device=base.device)
    tau = torch.empty_like(shift)
    for low in range(0, n, step):
        high = min(low + step, n)
        total, one = shift[: high - low].zero_(), tau[: high - low]
        for weight, tensor, reference in live:
            one.copy_(tensor[low:high])
            if reference is not None:
                one.sub_(reference[low:high])
            total.add_(one, alpha=weight)
        # Adding the base to an empty sum would turn -0.0 into 0.0.
        flat_out[low:high].copy_(total.add_(flat_base[low:high]) if live else flat_base[low:high])
    return out


def _is_the_checkpoint(base: torch.Tensor, terms: Sequence[Term]) -> torch.Tensor | None:
    """The checkpoint itself where the sum is base + 1 * (checkpoint - base).

    In float32 that sum may miss the checkpoint by a rounding of the difference.
    """
    live = [term for term in terms if term.weight != 0.0]
    if len(live) != 1 or live[0].weight != 1.0 or live[0].tensor.dtype != base.dtype:
        return None
    return live[0].tensor if live[0].reference is base else None
