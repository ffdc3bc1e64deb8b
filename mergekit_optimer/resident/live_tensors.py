"""Checkpoint tensor names -> views of a live model's parameters and buffers. Writes nothing.

transformers renames tensors when it loads a checkpoint and may fuse several into one parameter (the experts of a
mixture), so the names in the file are not the model's. What it does to save a model says which part of which
parameter each stored tensor is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergekit_optimer.errors import MergeError
from mergekit_optimer.vectors import TensorFolder

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LiveTensor:
    """One stored tensor and where it lives in the model.

    Attributes:
        name: Its name in the checkpoint.
        view: The part of the parameter or buffer that holds it; it shares the memory and has no gradient.
        parameter: The parameter it is a part of; None for a buffer.
    """

    name: str
    view: torch.Tensor
    parameter: torch.nn.Parameter | None

    def of_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the part of the parameter's gradient that belongs to this tensor."""
        import torch

        assert self.parameter is not None
        parameter = self.parameter
        if gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        offset = self.view.storage_offset() - parameter.storage_offset() + gradient.storage_offset()
        return gradient.as_strided(self.view.shape, self.view.stride(), offset)


def find_live_tensors(model: torch.nn.Module, base: TensorFolder) -> tuple[list[LiveTensor], dict[str, str]]:
    """Find every float tensor of the base in a model that was loaded from it.

    Returns:
        The tensors in name order, each place in memory once; and {copy: name} of tensors that are stored a second
        time for a parameter that the model holds once (a tied output layer).

    Raises:
        MergeError: A tensor of the base is not in the model, a parameter of the model is not in the base, a part of
            the model has no memory of its own, or the model's values are not the base's.
    """
    views = _views_by_stored_name(model)
    parameters = {_place(p)[0]: p for p in model.parameters()}
    ignored = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    found: dict[tuple[Any, ...], LiveTensor] = {}
    copies: dict[str, str] = {}
    lost, different = [], []
    for name, stored in base.items():
        view = _view_of(name, views, getattr(model, "base_model_prefix", ""))
        if view is None or view.shape != stored.shape:
            if view is not None or not any(pattern.search(name) for pattern in ignored):
                lost.append(name)
            continue
        if not stored.is_floating_point():
            continue
        if not _same_bits(view, stored):
            different.append(name)
        first = found.setdefault(_place(view), LiveTensor(name, view, parameters.get(_place(view)[0])))
        if first.name != name:
            copies[name] = first.name
    if lost:
        raise MergeError(
            f"The live model has no place for {some(lost)} of {base.folder}: it was loaded from another folder, or "
            "loading changes this architecture in a way that cannot be followed. Load it from that folder; if it was, "
            "merge to folders with mergekit and score those."
        )
    if different:
        raise MergeError(
            f"The live model's values of {some(different)} are not those of {base.folder}; load the model from that "
            "folder and change nothing."
        )
    _check_covered(model, list(found.values()), base)
    return list(found.values()), copies


def check_in_memory(model: torch.nn.Module) -> None:
    """Check that every parameter has memory of its own.

    Raises:
        MergeError: Some are placeholders, as those that accelerate offloads to the CPU or to disk.
    """
    absent = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if absent:
        raise MergeError(
            f"{some(absent)} of the model have no memory of their own (device 'meta': offloaded, or never loaded); "
            "load the model onto devices that hold it whole, without offloading."
        )


def _views_by_stored_name(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors that ``save_pretrained`` would write, as views of the live ones where they can be."""
    import torch
    from transformers import PreTrainedModel
    from transformers.core_model_loading import revert_weight_conversion

    class View(torch.Tensor):  # type: ignore[misc]
        """A tensor of which ``contiguous`` gives no copy: splitting a fused parameter then leaves views of it."""

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.Tensor.contiguous:
                return args[0]
            return super().__torch_function__(func, types, args, kwargs or {})

    live = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if not isinstance(model, PreTrainedModel):
        return live
    places = {_place(tensor)[0] for tensor in live.values()}
    wrapped = {name: tensor.as_subclass(View) for name, tensor in live.items()}
    stored = revert_weight_conversion(model, wrapped)
    # What was copied on the way is no place to write to.
    return {name: tensor.as_subclass(torch.Tensor) for name, tensor in stored.items() if _place(tensor)[0] in places}


def _view_of(name: str, views: dict[str, torch.Tensor], prefix: str) -> torch.Tensor | None:
    """Find a stored tensor's view; loading overlooks the model's own prefix, too much or too little of it."""
    for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
        if candidate in views:
            return views[candidate]
    return None


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Where a tensor lies: first its whole memory, then the part of it."""
    memory = (str(tensor.device), tensor.untyped_storage().data_ptr())
    return memory, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _same_bits(view: torch.Tensor, stored: torch.Tensor) -> bool:
    import torch

    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[view.element_size()]
    return bool(torch.equal(view.view(integers), stored.to(view.device, view.dtype).view(integers)))


def _check_covered(model: torch.nn.Module, found: list[LiveTensor], base: TensorFolder) -> None:
    n_found: dict[Any, int] = {}
    for tensor in found:
        memory = _place(tensor.view)[0]
        n_found[memory] = n_found.get(memory, 0) + tensor.view.numel()
    n_held: dict[Any, int] = {}
    for parameter in model.parameters():
        memory = _place(parameter)[0]
        n_held[memory] = n_held.get(memory, 0) + parameter.numel()
    missing = [
        name for name, p in model.named_parameters() if n_found.get(_place(p)[0], 0) < n_held[_place(p)[0]]
    ]  # fmt: skip
    if missing:
        raise MergeError(
            f"{base.folder} does not hold {some(missing)} of the live model whole; load the model from that folder, "
            "or save it anew with save_pretrained."
        )


def some(names: list[str]) -> str:
    """Name the first four, and how many more there are."""
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
