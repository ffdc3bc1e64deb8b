"""theta_0 + sum_i w_i tau_i of one tensor: what is summed, in which order, and where it is rounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergekit_optimer.errors import MergeError
from mergekit_optimer.kernel import compiled
from mergekit_optimer.kernel.blocks import Term, add_in_blocks

if TYPE_CHECKING:
    import torch


def add_vectors(base: torch.Tensor, terms: Sequence[Term], out: torch.Tensor | None = None) -> torch.Tensor:
    """Add weighted distribution vectors to the base: theta = theta_0 + sum_i w_i tau_i.

    The shifts are summed first and the base is added last, so there is one rounding to the base's dtype; terms of
    weight 0 are skipped, so zero weights return the base bit for bit, and one term of weight 1 whose reference is
    the base returns its tensor bit for bit.

    Args:
        base: Tensor of any shape and float dtype. Not modified.
        terms: Summed in the order given; tensors of base's shape and device. Not modified.
        out: Tensor of base's shape, dtype and device to overwrite, contiguous or not; shares no memory with the
            others. A new tensor where None.

    Returns:
        ``out``, or a new tensor of base's shape and dtype; the sum is taken in float32 (float64 for a float64 base).

    Raises:
        MergeError: A shape differs from base's, or ``out`` is not of base's shape and dtype.

    Source: Ilharco et al. 2022, arXiv 2212.04089, section 2; OptiMer, arXiv 2603.28858.
    """
    import torch

    for term in terms:
        for tensor in (term.tensor, term.reference):
            if tensor is not None and tensor.shape != base.shape:
                raise MergeError(f"A tensor of shape {tuple(tensor.shape)} cannot be added to {tuple(base.shape)}.")
    if out is not None and (out.shape != base.shape or out.dtype != base.dtype):
        raise MergeError(
            f"A sum of shape {tuple(base.shape)} in {base.dtype} cannot be written to a tensor of shape "
            f"{tuple(out.shape)} in {out.dtype}."
        )
    live = [term for term in terms if term.weight != 0.0]
    # Adding the base to an empty sum would turn -0.0 into 0.0.
    known = _the_checkpoint(base, live) if live else base
    if known is not None:
        return known.clone() if out is None else out.copy_(known)
    direct = out is not None and out.is_contiguous()
    result = out if direct and out is not None else torch.empty(base.shape, dtype=base.dtype, device=base.device)
    if not compiled.add_vectors(base, live, result):
        add_in_blocks(base, live, result)
    return result if out is None or direct else out.copy_(result)


def _the_checkpoint(base: torch.Tensor, live: Sequence[Term]) -> torch.Tensor | None:
    """The checkpoint itself where the sum is base + 1 * (checkpoint - base).

    In float32 that sum may miss the checkpoint by a rounding of the difference.
    """
    if len(live) != 1 or live[0].weight != 1.0 or live[0].tensor.dtype != base.dtype:
        return None
    return live[0].tensor if live[0].reference is base else None
