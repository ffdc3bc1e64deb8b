"""The rungs: the best of each are scored on the next one's samples, and the best of the last is the winner."""

from __future__ import annotations

import logging
from dataclasses import replace

from mergekit_optimer.errors import SearchError
from mergekit_optimer.recipe import SearchSection
from mergekit_optimer.scores import TaskScores, collapsed, floored
from mergekit_optimer.search.ledger import Ledger
from mergekit_optimer.search.objective import needs_base
from mergekit_optimer.search.pareto import best_first
from mergekit_optimer.search.places import StudyPlace
from mergekit_optimer.search.records import Measured, TrialRecord, append_scores, head
from mergekit_optimer.search.workers import MAX_ATTEMPTS, Request, Workers, is_final

log = logging.getLogger(__name__)


def climb(spec: SearchSection, ledger: Ledger, workers: Workers, place: StudyPlace) -> TrialRecord:
    """Score the best of each rung on the next one's samples; return the best of the last.

    Raises:
        SearchError: No trial was kept.
        InfrastructureError: A trial could not be scored, however often it was tried.
    """
    contenders = field = _kept_at(spec.rungs[0].n_samples, ledger.records())
    for below, rung in zip(spec.rungs, spec.rungs[1:], strict=False):
        # By the rung below, also for a trial that climbed before: a restart must pick the same ones.
        best = [one.number for one in _best_first(spec, contenders, below.n_samples, field)[: rung.top]]
        if needs_base(spec.objective):
            _extend_all(ledger, workers, place, [ledger.base().number], rung.n_samples)
        _extend_all(ledger, workers, place, best, rung.n_samples)
        contenders = _kept_at(rung.n_samples, [ledger.record(number) for number in best])
        for record in _best_first(spec, contenders, rung.n_samples, field):
            value = record.values[rung.n_samples]
            log.info("rung of %d samples: trial #%d  dev %.4f", rung.n_samples, record.number, value)
    return _best_first(spec, contenders, spec.rungs[-1].n_samples, field)[0]


def rank(spec: SearchSection, records: list[TrialRecord]) -> TrialRecord:
    """Return the best by what is scored already: at the last rung that all kept trials have reached.

    Raises:
        SearchError: No trial was kept.
    """
    reached, *higher = (rung.n_samples for rung in spec.rungs)
    contenders = field = _kept_at(reached, records)
    for n_samples in higher:
        if all(n_samples in record.values for record in contenders):
            reached, contenders = n_samples, _kept_at(n_samples, contenders)
    return _best_first(spec, contenders, reached, field)[0]


def _extend_all(ledger: Ledger, workers: Workers, place: StudyPlace, numbers: list[int], n_samples: int) -> None:
    """Bring trials to a rung, side by side: neither who scores one nor which ends first changes anything.

    A trial that got this far before is left alone; of several drivers, the one that claims it scores it.
    """
    flying: dict[int, str] = {}
    attempts = dict.fromkeys(numbers, 0)
    try:
        while waiting := _not_yet(ledger, numbers, n_samples):
            for number in waiting:
                claim = f"rung/{n_samples}/{number}"
                if number in flying or len(flying) == workers.n_places or not place.claim(claim):
                    continue
                is_reached, record = not _not_yet(ledger, [number], n_samples), ledger.record(number)
                if is_reached:
                    place.release(claim)
                elif record.n_samples >= n_samples:
                    # A trial of another study may have the samples, and only the judgement of this one is missing.
                    _write_longer(ledger, record, Measured({}, 0.0, 0.0), n_samples)
                    place.release(claim)
                else:
                    flying[number] = claim
                    asked = Request(record.weights, ledger.trial_dir(number), record.n_samples, n_samples)
                    workers.submit(number, asked)
            if not flying:
                place.pause()
                continue
            ended = workers.wait()
            if ended is None:
                continue
            number, outcome = ended
            attempts[number] += 1
            if not isinstance(outcome, BaseException):
                _write_longer(ledger, ledger.record(number), outcome, n_samples)
            elif is_final(outcome) or attempts[number] == MAX_ATTEMPTS:
                raise outcome
            else:
                log.warning("trial #%d: %s: %s; it is tried again", number, type(outcome).__name__, outcome)
            place.release(flying.pop(number))
    finally:
        for claim in flying.values():
            place.release(claim)


def _not_yet(ledger: Ledger, numbers: list[int], n_samples: int) -> list[int]:
    """Those that nobody has brought to a rung."""
    ledger.refresh()
    return [number for number in numbers if n_samples not in ledger.record(number).values]


def _write_longer(ledger: Ledger, record: TrialRecord, measured: Measured, n_samples: int) -> None:
    """Write a trial with the samples that it had not seen yet."""
    whole = append_scores(record.scores, measured.scores)
    fallen = [task for task in collapsed(head(whole, n_samples)) if task not in record.collapsed]
    # The samples of the rungs below stay: the trials that were measured against them must find them again.
    new = {name: _finite(task, name in fallen) for name, task in measured.scores.items()}
    longer = replace(
        record,
        n_samples=max(n_samples, record.n_samples),
        collapsed=sorted([*record.collapsed, *fallen]),
        collapsed_at=record.collapsed_at | dict.fromkeys(fallen, n_samples),
        merge_s=round(record.merge_s + measured.merge_s, 4),
        score_s=round(record.score_s + measured.score_s, 4),
        scores=append_scores(record.scores, new),
    )
    judgement = ledger.judge(longer.scores_at(n_samples), n_samples, record.weights)
    is_kept = judgement.is_kept and not longer.collapsed_by(n_samples)
    values, kept = record.values | {n_samples: judgement.value}, record.kept | {n_samples: is_kept}
    longer = replace(longer, values=values, kept=kept)
    ledger.write(longer)
    ledger.share_longer(longer)


def _finite(task: TaskScores, has_collapsed: bool) -> TaskScores:
    """New samples as they are kept: at the floor where the task collapsed, else as measured."""
    finite = floored({"": task})[""]
    if has_collapsed:
        return finite
    # Worse than the floor by themselves, but not with the samples before.
    return TaskScores(finite.metrics | {task.primary: task.metrics[task.primary]}, task.primary)


def _kept_at(n_samples: int, records: list[TrialRecord]) -> list[TrialRecord]:
    """The trials that neither collapsed nor lost more than allowed on the first n samples, each weights once."""
    kept = [record for record in records if record.stopped is None and record.same_as is None]
    kept = [record for record in kept if record.kept[n_samples]]
    if not kept:
        raise SearchError(
            f"No trial was kept on {n_samples} samples: each collapsed or lost more than `keep` allows. "
            "Search on with a larger search.n_trials, or in another --run-dir with a looser keep or interval."
        )
    return kept


def _best_first(
    spec: SearchSection, records: list[TrialRecord], n_samples: int, field: list[TrialRecord]
) -> list[TrialRecord]:
    """Sort by the objective on the first n samples, or by nearness to a Pareto front's ideal; of equals the earlier."""
    if spec.objective.pareto_tasks:
        return best_first(spec, records, n_samples, field)
    return sorted(records, key=lambda record: (-record.values[n_samples], record.number))
