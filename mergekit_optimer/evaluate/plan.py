"""Which rows of tokens are run for a set of requests, and in which batches. Tokens and counts only: no model.

lighteval runs the context of a question once per choice. Here equal rows are run once, and where it saves enough the
choices of a question stand behind one another in a single row that holds their context once (a packed row; how its
choices are kept apart is ``forward``'s business).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Logits of a batch, in elements: 16 MiB on a CPU (beyond it, fresh pages cost more than the batch saves), 4 GiB else.
_LOGITS_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 30}
_MIN_TARGETS = 256
# On a CPU core a model of 1M parameters was fastest at 1024, one of 50M alike from 512 to 2048; more is more padding.
_MAX_BATCH_TOKENS = {"cpu": 1024, "cuda": 65536}
# What autograd keeps of a batch, in bytes, and how many vectors of the hidden size it keeps of a token in a layer
# (norms, attention's four projections and output, the three of a gated feed-forward of 3 to 4 times the size).
_ACTIVATION_BYTES = {"cpu": 1 << 29, "cuda": 1 << 33}
_VECTORS_KEPT = 24
_MIN_GRADIENT_TOKENS = 64
# Logits of a batch with autograd, in elements: they have a gradient of their size beside them. On a CPU more than
# without, because each batch passes over every parameter's gradient, whatever its length.
_GRADIENT_LOGITS_ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 29}
# A packed row is run under an explicit mask: with a quarter fewer tokens it was as fast, with 3.2 times fewer 3 times
# faster (measured on a CPU core, models of 13M and 50M parameters).
_PACKING_COST = 1.25


@dataclass(frozen=True)
class Request:
    """One continuation whose log-likelihood is wanted, given at least one token of context."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Budget:
    """How much is run at once.

    Attributes:
        tokens: Tokens of a batch, padding included; a longer row makes a batch of its own.
        targets: Positions of a batch whose logits are made; a row with more makes a batch of its own.
    """

    tokens: int
    targets: int


@dataclass(frozen=True)
class Limits:
    """What the model takes.

    Attributes:
        max_length: Longer rows lose the start of their context, as in lighteval.
        window: A question longer than this is not packed: layers with a sliding window would need a mask of their own.
        packs: Whether the model keeps the choices of a packed row apart.
    """

    max_length: int
    window: int
    packs: bool


@dataclass(frozen=True)
class Batch:
    """Rows run together.

    Attributes:
        input_ids: [rows, length], padded on the right; causal attention never looks there.
        segments: [rows, length] for packed rows, else None: 0 is context (or padding), n the n-th choice.
        position_ids: [rows, length] for packed rows, else None: a token's place in its own question.
        first: First column with a wanted position.
        predicting: Flat index in [rows * length] of the positions whose logits are wanted, rising.
        sources: For each wanted token its place in ``predicting``; None where they are the same one by one.
        targets: The wanted tokens.
        requests: Number of the request that each wanted token belongs to.
        numbers: The requests it serves, rising; no other batch serves one of them.
    """

    input_ids: torch.Tensor
    segments: torch.Tensor | None
    position_ids: torch.Tensor | None
    first: int
    predicting: torch.Tensor
    sources: torch.Tensor | None
    targets: torch.Tensor
    requests: torch.Tensor
    numbers: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens that are run, padding included."""
        n_tokens: int = self.input_ids.numel()
        return n_tokens


@dataclass(frozen=True)
class Plan:
    """The batches of a set of requests, all or some of them, on the model's device."""

    batches: tuple[Batch, ...]
    n_requests: int

    @property
    def numbers(self) -> list[int]:
        """The requests that its batches serve, rising."""
        return sorted(number for batch in self.batches for number in batch.numbers)


@dataclass(frozen=True)
class _Row:
    """Tokens of one row and, for each request it serves, at which positions which of its tokens are predicted."""

    ids: tuple[int, ...]
    segments: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    wanted: list[tuple[int, list[int], tuple[int, ...]]] = field(default_factory=list)

    @property
    def n_predicting(self) -> int:
        return len({place for _, places, _ in self.wanted for place in places})


def budget_for(device_type: str, vocab_size: int, tokens: int | None = None) -> Budget:
    """What is run at once without autograd: bounded by its logits, and in tokens unless somebody chose them."""
    kind = _known(device_type)
    targets = max(_MIN_TARGETS, _LOGITS_ELEMENTS[kind] // vocab_size)
    return Budget(tokens or _MAX_BATCH_TOKENS[kind], targets)


def gradient_budget(
    budget: Budget, device_type: str, vocab_size: int, hidden_size: int, n_layers: int, itemsize: int
) -> Budget:
    """What is run at once with autograd, which keeps every layer's activations: about 0.5 GiB on a CPU, 8 GiB else."""
    kind = _known(device_type)
    kept = _ACTIVATION_BYTES[kind] // (_VECTORS_KEPT * hidden_size * n_layers * itemsize)
    targets = max(_MIN_TARGETS // 2, _GRADIENT_LOGITS_ELEMENTS[kind] // vocab_size)
    return Budget(min(budget.tokens, max(_MIN_GRADIENT_TOKENS, kept)), targets)


def plan(questions: Sequence[Sequence[Request]], budget: Budget, limits: Limits, device: torch.device) -> Plan:
    """Sort rows by length into batches.

    The last token of a continuation is never an input, so single-token choices of one question share one row.

    Args:
        questions: The requests of each sample, each continuation shorter than the model's length. Requests are
            numbered through.
        budget: Bounds of a batch.
        limits: Of the model.
        device: Where the batches will be used.
    """
    plain: dict[tuple[int, ...], _Row] = {}
    packed: list[_Row] = []
    number = 0
    for question in questions:
        if limits.packs and (row := _packed(question, number, limits)) is not None:
            packed.append(row)
        else:
            for offset, request in enumerate(question):
                whole = (request.context + request.continuation)[-limits.max_length :]
                start = len(whole) - len(request.continuation)
                shared = plain.setdefault(whole[:-1], _Row(whole[:-1]))
                shared.wanted.append(
                    (number + offset, list(range(start - 1, len(whole) - 1)), request.continuation),
                )
        number += len(question)
    batches = [*_batched(plain.values(), budget), *_batched(packed, budget)]
    return Plan(tuple(_batch(rows, device) for rows in batches), number)


def packed_length(question: Sequence[Request], limits: Limits) -> int:
    """Tokens of the row that holds all choices of a question; 0 where rows of their own are better or needed."""
    row = _packed(question, 0, limits)
    return 0 if row is None else len(row.ids)


def _packed(question: Sequence[Request], first: int, limits: Limits) -> _Row | None:
    context = question[0].context
    if len(question) < 2 or any(request.context != context for request in question):
        return None
    if len(context) + max(len(request.continuation) for request in question) > min(limits.max_length, limits.window):
        return None
    inputs = list(dict.fromkeys(request.continuation[:-1] for request in question))
    starts: dict[tuple[int, ...], int] = {}
    ids, segments, positions = list(context), [0] * len(context), list(range(len(context)))
    for segment, tokens in enumerate((one for one in inputs if one), 1):
        starts[tokens] = len(ids)
        ids += tokens
        segments += [segment] * len(tokens)
        positions += range(len(context), len(context) + len(tokens))
    n_plain = sum(len(context) + len(tokens) for tokens in inputs)
    if len(inputs) < 2 or len(ids) > limits.max_length or n_plain < _PACKING_COST * len(ids):
        return None
    row = _Row(tuple(ids), tuple(segments), tuple(positions))
    for number, request in enumerate(question, first):
        start = starts.get(request.continuation[:-1], 0)
        places = [len(context) - 1, *range(start, start + len(request.continuation) - 1)]
        row.wanted.append((number, places, request.continuation))
    return row


def _batched(rows: Iterable[_Row], budget: Budget) -> list[list[_Row]]:
    batches: list[list[_Row]] = []
    n_targets = 0
    for row in sorted(rows, key=lambda row: (-len(row.ids), row.ids)):
        n_targets += row.n_predicting
        fits = batches and (len(batches[-1]) + 1) * len(batches[-1][0].ids) <= budget.tokens
        if fits and n_targets <= budget.targets:
            batches[-1].append(row)
        else:
            batches.append([row])
            n_targets = row.n_predicting
    return batches


def _batch(rows: list[_Row], device: torch.device) -> Batch:
    import torch

    length = len(rows[0].ids)
    wanted = [
        (index * length + place, token, number)
        for index, row in enumerate(rows)
        for number, places, tokens in row.wanted
        for place, token in zip(places, tokens, strict=True)
    ]
    predicting = sorted({place for place, _, _ in wanted})
    order = {place: index for index, place in enumerate(predicting)}
    # Rising, so that logits are read as they lie; a request's tokens keep their order.
    wanted.sort(key=lambda one: one[0])
    sources = None if len(wanted) == len(predicting) else [order[place] for place, _, _ in wanted]

    def tensor(values: list[int] | list[tuple[int, ...]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    def padded(tokens: Iterable[tuple[int, ...]]) -> torch.Tensor:
        return tensor([row + (0,) * (length - len(row)) for row in tokens])

    is_packed = bool(rows[0].segments)
    return Batch(
        input_ids=padded(row.ids for row in rows),
        segments=padded(row.segments for row in rows) if is_packed else None,
        position_ids=padded(row.positions for row in rows) if is_packed else None,
        first=min(place % length for place in predicting),
        predicting=tensor(predicting),
        sources=None if sources is None else tensor(sources),
        targets=tensor([token for _, token, _ in wanted]),
        requests=tensor([number for _, _, number in wanted]),
        numbers=tuple(sorted({number for _, _, number in wanted})),
    )


def _known(device_type: str) -> str:
    return device_type if device_type in _LOGITS_ELEMENTS else "cuda"
