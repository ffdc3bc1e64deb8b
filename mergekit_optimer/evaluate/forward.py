"""One batch through a live model -> the logits of its wanted positions, and no others. No sums, no lighteval.

Two things are done to a model that it was not asked about: its output layer is shown the wanted positions only
(``picks``), and the choices of a packed row are kept apart by an attention mask and by position ids (``packs``). Both
are off until ``abilities`` has compared them with the plain way.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mergekit_optimer.evaluate.plan import Batch

if TYPE_CHECKING:
    import torch


class Forward:
    """The forward pass of one causal language model, which is not changed.

    Attributes:
        picks: Whether the output layer is shown the wanted positions only.
        packs: Whether the choices of a question may share a row.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.picks = False
        self.packs = False
        self.options = frozenset(inspect.signature(model.forward).parameters)
        self.output_layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None

    @property
    def device(self) -> torch.device:
        """Where its inputs belong."""
        found: torch.device = next(self.model.parameters()).device
        return found

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of ``batch.predicting``: [positions, vocabulary] in the model's dtype."""
        inputs: dict[str, Any] = {"input_ids": batch.input_ids}
        if "use_cache" in self.options:
            inputs["use_cache"] = False
        if batch.segments is not None:
            inputs |= {"attention_mask": self._mask(batch.segments), "position_ids": batch.position_ids}
        found: torch.Tensor
        if self.picks:
            with self._picking(batch.predicting):
                found = self.model(**inputs).logits[0]
            return found
        length = batch.input_ids.shape[1]
        first = batch.first if "logits_to_keep" in self.options else 0
        if first:
            inputs["logits_to_keep"] = length - first
        logits = self.model(**inputs).logits[:, first - length :]
        place = batch.predicting.to(logits.device)
        found = logits[place // length, place % length - first]
        return found

    @contextmanager
    def _picking(self, predicting: torch.Tensor) -> Iterator[None]:
        """Show the output layer the hidden states of the wanted positions, as one row."""

        def pick(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden = args[0].flatten(0, -2)
            return (hidden[predicting.to(hidden.device)][None], *args[1:])

        assert self.output_layer is not None
        hook = self.output_layer.register_forward_pre_hook(pick)
        try:
            yield
        finally:
            hook.remove()

    def _mask(self, segments: torch.Tensor) -> torch.Tensor:
        """A choice sees the context and itself: [rows, 1, length, length], added to the attention's scores."""
        import torch

        length = segments.shape[1]
        keys, queries = segments[:, None, None, :], segments[:, None, :, None]
        causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
        hidden = ~(causal & ((keys == 0) | (keys == queries)))
        dtype = self.model.dtype
        return torch.zeros(hidden.shape, dtype=dtype, device=segments.device).masked_fill_(
            hidden, torch.finfo(dtype).min
        )
