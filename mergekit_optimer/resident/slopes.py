"""The slope of a loss along each vector, taken from gradients as they come. Runs no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mergekit_optimer.resident.live_tensors import LiveTensor
from mergekit_optimer.resident.sources import Sources

if TYPE_CHECKING:
    import torch

# Float64 copies of a block of gradient and vector stay in a CPU's cache; a GPU wants few, large launches.
_BLOCK = {"cpu": 1 << 16, "cuda": 1 << 24}


@contextmanager
def watch_slopes(tensors: list[LiveTensor], vectors: Sequence[str], sources: Sources) -> Iterator[dict[str, float]]:
    """Within it every backward pass adds <dL/dtheta, tau_k> to the yielded sums (float64) and leaves no gradient."""
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
            _add(sums, part.of_gradient(gradient), sources.read(part, vectors).deltas)

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
    block_size = _BLOCK["cpu" if gradient.device.type == "cpu" else "cuda"]
    flat = {name: tau.reshape(-1).split(block_size) for name, tau in taus.items()}
    totals = {name: gradient.new_zeros((), dtype=gradient.double().dtype) for name in taus}
    for number, block in enumerate(gradient.reshape(-1).split(block_size)):
        exact = block.double()
        for name, blocks in flat.items():
            totals[name] += exact.dot(blocks[number].double())
    for name, total in totals.items():
        sums[name] += float(total)
