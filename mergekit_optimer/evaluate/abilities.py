"""What a live model bears without a change to its numbers, found out on the samples that will be scored.

A model that ignores the mask or the position ids of a packed row, or is no transformer at all, says nothing: its
log-likelihoods would just be others. So they are compared once, with the weights it has when the scorer is made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mergekit_optimer.evaluate.forward import Forward
from mergekit_optimer.evaluate.loglikelihood import log_likelihoods
from mergekit_optimer.evaluate.plan import Budget, Limits, Plan, Request, packed_length, plan

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# Attention that takes a mask of any shape; others ignore it or die.
_MASKED_ATTENTION = ("sdpa", "eager")
# How far apart log-likelihoods may lie that are the same number: relative, and per token.
_TOLERANCE = (1e-4, 1e-5)
# In dtypes narrower than float32, whose logits have 3 digits or fewer: there the exact comparisons decide.
_NARROW_TOLERANCE = (2e-2, 5e-2)
_ALL_AT_ONCE = Budget(1 << 62, 1 << 62)


def limits_of(model: Any, max_length: int) -> Limits:
    """Return the model's length and the narrowest window that any of its layers may attend over."""
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return Limits(max_length, min([max_length, *(size for size in windows if isinstance(size, int))]), packs=False)


def learn(forward: Forward, questions: Sequence[Sequence[Request]], limits: Limits) -> None:
    """Set ``forward.picks`` and ``forward.packs``; what the model does not bear stays off.

    Args:
        forward: Of a model in evaluation mode; without autograd.
        questions: All that will be scored; looked at are the first and the one of the longest packed row.
        limits: Of the model.
    """
    if not questions:
        return
    if forward.output_layer is not None:
        forward.picks = _holds("logits of wanted positions only", lambda: _picks(forward, questions[0], limits))
    attention = getattr(forward.model.config, "_attn_implementation", None)
    if {"attention_mask", "position_ids"} <= forward.options and attention in _MASKED_ATTENTION:
        allowed = replace(limits, packs=True)
        longest = max(questions, key=lambda question: packed_length(question, allowed))
        if packed_length(longest, allowed):
            forward.packs = _holds("packed rows", lambda: _packs(forward, longest, allowed))


def _holds(what: str, check: Callable[[], bool]) -> bool:
    try:
        held = check()
    except Exception as error:
        # The model's code may be anybody's, and refuses what it does not know in its own way.
        log.debug("%s: the model refuses (%s: %s)", what, type(error).__name__, error)
        return False
    if not held:
        log.debug("%s: the model gives other numbers", what)
    return held


def _picks(forward: Forward, question: Sequence[Request], limits: Limits) -> bool:
    work = plan([question], _ALL_AT_ONCE, limits, forward.device)
    wanted, _ = log_likelihoods(forward, work, greedy=False)
    forward.picks = True
    try:
        found, _ = log_likelihoods(forward, work, greedy=False)
    finally:
        forward.picks = False
    return _agree(forward, question, wanted, found)


def _packs(forward: Forward, question: Sequence[Request], limits: Limits) -> bool:
    plain = plan([question], _ALL_AT_ONCE, replace(limits, packs=False), forward.device)
    packed = plan([question], _ALL_AT_ONCE, limits, forward.device)
    if not _keeps_apart(forward, packed):
        return False
    wanted, _ = log_likelihoods(forward, plain, greedy=False)
    found, _ = log_likelihoods(forward, packed, greedy=False)
    return _agree(forward, question, wanted, found)


def _keeps_apart(forward: Forward, packed: Plan) -> bool:
    """Whether the last choice is blind to the others but sees the context, and position ids count. In any dtype.

    transformers tells sequences apart by position ids that start again where it gets no mask: a model whose mask is
    lost on the way would score choices without their context.
    """
    import torch

    (batch,) = packed.batches
    segments, ids = batch.segments, batch.input_ids
    assert segments is not None
    last = segments.max()
    of_last = segments.flatten()[batch.predicting] == last

    def last_logits(**changes: torch.Tensor) -> torch.Tensor:
        logits = forward.logits(replace(batch, **changes))
        return logits[of_last.to(logits.device)]

    seen = last_logits()
    others = (ids + 1) % seen.shape[-1]
    blind = last_logits(input_ids=torch.where((segments > 0) & (segments < last), others, ids))
    without_context = last_logits(input_ids=torch.where(segments == 0, others, ids))
    in_a_row = last_logits(position_ids=torch.arange(ids.shape[1], device=ids.device)[None])
    return torch.allclose(seen, blind, rtol=1e-4, atol=1e-4) and not any(
        torch.equal(seen, other) for other in (without_context, in_a_row)
    )


def _agree(forward: Forward, question: Sequence[Request], wanted: list[float], found: list[float]) -> bool:
    import torch

    relative, per_token = _TOLERANCE if torch.finfo(forward.model.dtype).bits >= 32 else _NARROW_TOLERANCE
    return all(
        abs(mine - theirs) <= relative * abs(theirs) + per_token * len(request.continuation)
        for request, mine, theirs in zip(question, found, wanted, strict=True)
    )
