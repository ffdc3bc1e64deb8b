"""Trials of a finished study taken into this one under its own objective: judged anew from their samples, not scored.

Base, pool and dev samples must be the same, which the caller checks; only the objective may be another.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mergekit_optimer.errors import SearchError
from mergekit_optimer.recipe import SearchSection
from mergekit_optimer.search.ledger import Ledger
from mergekit_optimer.search.objective import Judgement, needs_base
from mergekit_optimer.search.records import TrialRecord

log = logging.getLogger(__name__)


def adopt_trials(
    study: Any,
    ledger: Ledger,
    spec: SearchSection,
    space: Mapping[str, Any],
    records: list[TrialRecord],
    origin: str,
) -> int:
    """Enter another study's trials as complete ones; those entered before are left alone.

    Args:
        space: Vector -> Optuna's distribution of its weight.
        origin: Name of the run that they are from.

    Returns:
        How many were entered now.

    Raises:
        SearchError: They do not fit: a task was not scored, or no base model is among them.
    """
    import optuna

    entered = {trial.user_attrs.get("origin") for trial in study.get_trials(deepcopy=False)}
    records = [record for record in records if record.same_as is None]
    bases = [record for record in [*records, *ledger.records()] if record.is_base and record.stopped is None]
    if needs_base(spec.objective) and not bases:
        raise SearchError(
            f"No trial of {origin} is the base model (all weights 0), which this objective is measured against. "
            "Search without --from, or with an objective without gain_over_base and keep."
        )
    n_entered = 0
    # The base first, which the others need; stopped trials last, as they are measured against the best of the whole.
    for record in sorted(records, key=lambda record: (record.stopped is not None, not record.is_base, record.number)):
        label = f"{origin}#{record.number}"
        if label in entered or ledger.twin(record.weights, whole=True):
            continue
        number = len(study.get_trials(deepcopy=False))
        adopted, judgement = _judged(ledger, spec, replace(record, number=number, origin=label))
        ledger.write_merge(number, adopted.weights)
        ledger.write(adopted)
        trial = optuna.trial.create_trial(
            values=judgement.values if spec.objective.pareto_tasks else [adopted.values[ledger.first_rung]],
            params=record.weights,
            distributions=dict(space),
            constraints=judgement.violations,
            user_attrs={
                "origin": label,
                "source": record.source,
                "is_kept": adopted.kept[ledger.first_rung],
                "collapsed": adopted.collapsed_by(ledger.first_rung),
                **ledger.shared_attributes(adopted),
            },
        )
        study.add_trial(trial)
        n_entered += 1
    if n_entered:
        best = ledger.incumbent()
        shown = f"; best dev {best.values[ledger.first_rung]:.4f} (#{best.number})" if best else "; none is kept"
        log.info("%d trials of %s ranked by this objective, none scored%s", n_entered, origin, shown)
    return n_entered


def _judged(ledger: Ledger, spec: SearchSection, record: TrialRecord) -> tuple[TrialRecord, Judgement]:
    """Judge a trial at every rung it reached; a stopped one where it was stopped."""
    first = ledger.first_rung
    judgement = ledger.judge(record.scores_at(first), min(first, record.n_samples), record.weights)
    values, kept = {first: judgement.value}, {first: judgement.is_kept and not record.collapsed_by(first)}
    if record.stopped is not None:
        kept[first] = False
        best = ledger.incumbent()
        if record.stopped == "race" and best is not None:
            values[first] = best.values[first] + ledger.difference(record.scores, best).value
    for n_samples in _higher_rungs(ledger, spec, record):
        higher = ledger.judge(record.scores_at(n_samples), n_samples, record.weights)
        values[n_samples], kept[n_samples] = higher.value, higher.is_kept and not record.collapsed_by(n_samples)
    # Merged and scored elsewhere, so it took no time here.
    return replace(record, values=values, kept=kept, merge_s=0.0, score_s=0.0), judgement


def _higher_rungs(ledger: Ledger, spec: SearchSection, record: TrialRecord) -> list[int]:
    """Sizes of the rungs after the first that a trial can be judged at now.

    Where the base has fewer samples than the trial, the rung is judged once a climb has scored the base on it.
    """
    n_samples = record.n_samples
    if needs_base(spec.objective) and not record.is_base:
        n_samples = min(n_samples, ledger.base().n_samples)
    return [rung.n_samples for rung in spec.rungs[1:] if rung.n_samples <= n_samples]
