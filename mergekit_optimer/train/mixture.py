"""The data mixture: how many documents of each dataset give the wished shares of tokens, and for how many steps."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergekit_optimer.train.record import MixturePart

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSize:
    """How long a training runs.

    Attributes:
        n_steps: Optimiser steps.
        n_tokens: Tokens trained on.
        tokens_per_step: Tokens of one step with full rows.
    """

    n_steps: int
    n_tokens: int
    tokens_per_step: int


def run_size(lengths: list[int], options: dict[str, Any], world_size: int) -> RunSize:
    """Return how long the training of one dataset runs, from the tokens of its documents, without doing it."""
    from datasets import Dataset

    batch = options["per_device_train_batch_size"] * world_size
    accumulation = options.get("gradient_accumulation_steps", 1)
    tokens_per_step = batch * accumulation * options["max_length"]
    if options.get("max_steps", -1) > 0:
        n_steps = options["max_steps"]
        return RunSize(n_steps, n_steps * tokens_per_step, tokens_per_step)
    # Rows are packed in batches of 1000 documents in the trainer's own order, the last row of each being short.
    documents = Dataset.from_dict({"n": lengths})
    if options["shuffle_dataset"]:
        documents = documents.shuffle(seed=options["seed"])
    order = list(documents["n"])
    n_rows = sum(
        math.ceil(sum(order[start : start + 1000]) / options["max_length"]) for start in range(0, len(order), 1000)
    )
    updates = math.ceil(math.ceil(n_rows / batch) / accumulation)
    epochs = options["num_train_epochs"]
    return RunSize(math.ceil(epochs * updates), round(epochs * sum(lengths)), tokens_per_step)


def mixture_steps(sizes: list[RunSize], tokens_per_step: int) -> int:
    """Return the steps in which a mixture sees as many tokens as all single runs; with like batches, their sum."""
    if all(size.tokens_per_step == tokens_per_step for size in sizes):
        return sum(size.n_steps for size in sizes)
    return math.ceil(sum(size.n_tokens for size in sizes) / tokens_per_step)


def take_documents(lengths: list[int], n_tokens: int, seed: int) -> list[int]:
    """Choose documents, in an order drawn from the seed, until they hold ``n_tokens``; all anew when they run out.

    Returns:
        Row numbers, at least one; their tokens differ from ``n_tokens`` by at most half a document.
    """
    import numpy as np

    sizes = np.asarray(lengths)
    generator = np.random.default_rng(seed)
    taken: list[int] = []
    missing = n_tokens
    while True:
        order = generator.permutation(len(sizes))
        ends = np.cumsum(sizes[order])
        if ends[-1] < missing:
            taken += order.tolist()
            missing -= int(ends[-1])
            continue
        count = int(np.searchsorted(ends, missing)) + 1
        too_many = ends[count - 1] - missing
        if too_many > sizes[order[count - 1]] / 2 and (taken or count > 1):
            count -= 1
        taken += order[:count].tolist()
        return taken


def mix(
    datasets: dict[str, Dataset],
    lengths: dict[str, list[int]],
    shares: dict[str, float],
    n_tokens: int,
    seed: int,
) -> tuple[Dataset, dict[str, MixturePart]]:
    """Mix datasets by shares of tokens.

    ``interleave_datasets`` draws rows, and documents of one dataset may be ten times as long as another's; so the
    number of documents of each is fixed first, from their tokens, and the draw only orders them.

    Args:
        datasets: Documents, one column ``text``, by name.
        lengths: Tokens of each document, by name.
        shares: Wished shares of tokens, by name; normalised here. A dataset without one gives nothing.
        n_tokens: Tokens of the whole mixture.
        seed: Decides which documents, and their order.
    """
    from datasets import interleave_datasets

    total = sum(shares.values())
    names = sorted(shares)
    rows = {
        name: take_documents(lengths[name], round(n_tokens * shares[name] / total), seed + index)
        for index, name in enumerate(names)
    }
    tokens = {name: sum(lengths[name][row] for row in rows[name]) for name in names}
    parts = {
        name: MixturePart(
            wanted_share=shares[name] / total,
            realised_share=tokens[name] / sum(tokens.values()),
            n_documents=len(rows[name]),
            n_tokens=tokens[name],
            n_passes=len(rows[name]) / len(lengths[name]),
        )
        for name in names
    }
    for name, part in parts.items():
        log.info(
            "mixture: %s %.1f %% of tokens (wished %.1f %%), %d documents",
            name, 100 * part.realised_share, 100 * part.wanted_share, part.n_documents,
        )  # fmt: skip
        if part.n_passes > 1:
            log.info("mixture: %s is too small for its share and is read %.1f times", name, part.n_passes)
        if abs(part.realised_share - part.wanted_share) > 0.02:
            log.warning("mixture: documents of %s are too long to meet its share", name)
    n_rows = sum(part.n_documents for part in parts.values())
    mixed = interleave_datasets(
        [datasets[name].select(rows[name]) for name in names],
        probabilities=[parts[name].n_documents / n_rows for name in names],
        seed=seed,
        stopping_strategy="all_exhausted_without_replacement",
    )
    return mixed, parts
