"""The slope of a loss along each vector, taken from gradients as they come. Runs no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mergekit_optimer.resident.live_tensors import LiveTensor
from mergekit_optimer.resident.sources import Sources

if TYPE_CHECKING:
    import torch

# A block of products stays in a CPU's cache; a GPU wants few, large launches.
_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 24}
# Products are summed in rows of so many, each by one thread: a dot product's bits would depend on how many there are.
_ROW = 1 << 10


@contextmanager
def watch_slopes(tensors: list[LiveTensor], vectors: Sequence[str], sources: Sources) -> Iterator[dict[str, float]]:
    """Within it every backward pass adds <dL/dtheta, tau_k> to the yielded sums and leaves no gradient.

    Products are taken and summed in rows in float32 (float64 for a float64 model), the rows' sums in float64.
    """
    sums = dict.fromkeys(vectors, 0.0)
    parts: dict[int, list[LiveTensor]] = {}
    parameters: dict[int, torch.nn.Parameter] = {}
    for tensor in tensors:
        if tensor.parameter is not None:
            parts.setdefault(id(tensor.parameter), []).append(tensor)
            parameters[id(tensor.parameter)] = tensor.parameter

    def use(parameter: torch.Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        for part in parts[id(parameter)]:
            _add(sums, part.of_gradient(gradient), sources.deltas(part, vectors))

    before = {key: (parameter.requires_grad, parameter.grad) for key, parameter in parameters.items()}
    hooks: list[Any] = []
    try:
        for parameter in parameters.values():
            parameter.grad = None
            hooks.append(parameter.requires_grad_(True).register_post_accumulate_grad_hook(use))
        yield sums
    finally:
        for hook in hooks:
            hook.remove()
        for key, parameter in parameters.items():
            required, gradient = before[key]
            parameter.requires_grad_(required)
            parameter.grad = gradient


def _add(sums: dict[str, float], gradient: torch.Tensor, taus: dict[str, torch.Tensor]) -> None:
    """Add the inner products of a gradient with each vector's tensor, block by block."""
    import torch

    device, dtype = gradient.device, torch.promote_types(gradient.dtype, torch.float32)
    size = min(_BLOCK["cpu" if device.type == "cpu" else "cuda"], max(gradient.numel(), 1))
    flat = [tau.reshape(-1).split(size) for tau in taus.values()]
    totals = torch.zeros(len(flat), dtype=torch.float64, device=device)
    made = torch.empty(size, dtype=dtype, device=device)
    for number, block in enumerate(gradient.reshape(-1).split(size)):
        exact, products = block.to(dtype), made[: len(block)]
        n_whole = len(block) // _ROW * _ROW
        for place, blocks in enumerate(flat):
            torch.mul(exact, blocks[number], out=products)
            rows = products[:n_whole].view(-1, _ROW).sum(1)
            totals[place] += rows.sum(dtype=torch.float64) + products[n_whole:].sum(dtype=torch.float64)
    for name, total in zip(taus, totals.tolist(), strict=True):
        sums[name] += total
