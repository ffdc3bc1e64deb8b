"""A trial on its way: what is to be scored of it next, one request at a time, until its record is whole.

A trial is a generator, so that a study can have several in the air and be the only one who writes.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

from mergekit_optimer.scores import collapsed, floored
from mergekit_optimer.search.ledger import Ledger
from mergekit_optimer.search.objective import Judgement, needs_base
from mergekit_optimer.search.race import Laps, score_in_chunks, score_whole
from mergekit_optimer.search.records import Measured, TrialRecord, is_warm_start
from mergekit_optimer.search.workers import Request

# Yields what is to be scored next, is sent what was measured, returns the record and what the objective says of it.
Steps = Generator[Request, Measured, tuple[TrialRecord, Judgement]]


@dataclass
class Flight:
    """A trial that the study has asked for and not been told of."""

    trial: Any
    weights: dict[str, float]
    steps: Steps
    started: float = field(default_factory=time.monotonic)

    @property
    def number(self) -> int:
        return int(self.trial.number)


def take_off(trial: Any, vectors: list[str], ledger: Ledger, is_race: bool) -> Flight:
    """Begin a trial; nothing is scored yet."""
    weights = {name: float(trial.params[name]) for name in vectors}
    source = trial.user_attrs.get("source", "sampler")
    return Flight(trial, weights, _steps(ledger, trial.number, weights, source, is_race))


def _steps(ledger: Ledger, number: int, weights: dict[str, float], source: str, is_race: bool) -> Steps:
    """Merge and score a weight vector, unless the very same one is scored already."""
    first = ledger.first_rung
    ledger.write_merge(number, weights)
    twin = ledger.twin(weights, whole=source == "adopted" or is_warm_start(source))
    if twin is not None:
        judgement = ledger.judge(twin.scores_at(first), min(twin.n_samples, first), weights)
        # As the twin was before it climbed: a longer study must not differ from one run in one go.
        same = replace(twin.at_first(first), number=number, source=source, same_as=twin.number, origin=None)
        return replace(same, merge_s=0.0, score_s=0.0), judgement
    laps, measured = _laps(ledger, weights, source, is_race), None
    while True:
        try:
            start, stop = next(laps) if measured is None else laps.send(measured)
        except StopIteration as through:
            lap = through.value
            break
        measured = yield Request(weights, ledger.trial_dir(number), start, stop)
    fallen = collapsed(lap.measured.scores)
    scores = floored(lap.measured.scores)
    judgement = ledger.judge(scores, lap.n_samples, weights)
    record = TrialRecord(
        number=number,
        weights=weights,
        source=source,
        n_samples=lap.n_samples,
        values={first: judgement.value if lap.estimate is None else lap.estimate},
        kept={first: judgement.is_kept and not fallen and lap.stopped is None},
        collapsed=fallen,
        merge_s=round(lap.measured.merge_s, 4),
        score_s=round(lap.measured.score_s, 4),
        scores=scores,
        stopped=lap.stopped,
    )
    return record, judgement


def _laps(ledger: Ledger, weights: dict[str, float], source: str, is_race: bool) -> Laps:
    if not is_race:
        return score_whole(ledger.first_rung)
    is_reference = needs_base(ledger.objective) and not any(weights.values())
    return score_in_chunks(ledger, may_lose=not is_warm_start(source), may_collapse=not is_reference)
