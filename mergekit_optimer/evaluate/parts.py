"""One score made in parts: which batches fall to which part, what a part holds, and how all are put together again.

Runs no model and knows no lighteval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class PartScores:
    """What one part of a score measured, in plain numbers and texts, to be sent between processes.

    Attributes:
        n_samples: End of the range that is scored, as ``Scorer.score_part`` was given it; ``start`` alike.
        index: Which part of ``count``.
        requests: The continuations it ran, numbered through all samples of the range.
        log_likelihoods: Of each, in nats.
        greedy: Of each, whether greedy decoding writes it; empty where no task asks.
        samples: The samples it wrote an answer for, numbered through those of all generating tasks.
        answers: Of each, the fields of lighteval's response.
    """

    n_samples: int | None
    start: int
    index: int
    count: int
    requests: list[int]
    log_likelihoods: list[float]
    greedy: list[bool]
    samples: list[int]
    answers: list[dict[str, Any]]


def share(costs: Sequence[int], index: int, count: int) -> list[int]:
    """Return the batches that fall to a part, rising: the costliest first, each to the part with the least so far.

    Args:
        costs: Of each batch, in any unit; equal costs give equal shares in every process.
        index: The part.
        count: All parts; those beyond the batches get none.
    """
    if count == 1:
        return list(range(len(costs)))
    loads, mine = [0] * count, []
    for number in sorted(range(len(costs)), key=lambda number: (-costs[number], number)):
        part = loads.index(min(loads))
        loads[part] += costs[number]
        if part == index:
            mine.append(number)
    return sorted(mine)


def check_parts(parts: Sequence[PartScores], n_samples: int | None, start: int) -> None:
    """Check that these are all parts of one score.

    Raises:
        ValueError: One is missing or there twice, or is of other samples.
    """
    for part in parts:
        if (part.n_samples, part.start) != (n_samples, start):
            raise ValueError(
                f"part {part.index} is of samples {part.start} to {part.n_samples}, not of {start} to {n_samples}"
            )
    found = sorted((part.index, part.count) for part in parts)
    if not parts or found != [(index, len(parts)) for index in range(len(parts))]:
        named = ", ".join(f"{index} of {count}" for index, count in found) or "none"
        raise ValueError(f"a score needs each of its parts once; there are: {named}")


def in_order(pieces: Iterable[tuple[Sequence[int], Sequence[T]]], n: int) -> list[T]:
    """Return the values numbered 0..n-1 in that order, from pieces of numbers and their values.

    Raises:
        ValueError: One is missing or there twice.
    """
    pairs = [pair for numbers, values in pieces for pair in zip(numbers, values, strict=True)]
    found = dict(pairs)
    if len(pairs) != n or found.keys() != set(range(n)):
        raise ValueError(
            f"the parts hold {len(pairs)} values where {n} belong: they were not made of the same batches, for which "
            "model, tasks and kind of device must be the same"
        )
    return [found[number] for number in range(n)]
