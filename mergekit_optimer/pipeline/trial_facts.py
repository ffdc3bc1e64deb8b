"""The study's records -> what report and page say of each trial, all on the samples of the first rung."""

from __future__ import annotations

from typing import Literal

from mergekit_optimer.recipe import SearchSection
from mergekit_optimer.report import TrialFacts
from mergekit_optimer.search import TrialRecord, paired_difference, warm_start_weights

_BASELINES = ("zero", "singles", "uniform_average", "sum")


def trial_facts(spec: SearchSection, records: list[TrialRecord]) -> list[TrialFacts]:
    """What is said of each trial of a study, finished or not."""
    base = _base(spec, records)
    names = sorted(records[0].weights) if records else []
    baselines = warm_start_weights(names, list(_BASELINES)) if names else {}
    return [_one(spec, record, base, baselines) for record in records]


def base_value(spec: SearchSection, records: list[TrialRecord]) -> float | None:
    """The base model's objective on the first rung, where it is known."""
    if spec.objective.gain_over_base:
        return 0.0
    base = _base(spec, records)
    return None if base is None else base.values[spec.rungs[0].n_samples]


def _base(spec: SearchSection, records: list[TrialRecord]) -> TrialRecord | None:
    first = spec.rungs[0].n_samples
    return next((one for one in records if one.is_base and one.stopped is None and first in one.values), None)


def _one(
    spec: SearchSection, record: TrialRecord, base: TrialRecord | None, baselines: dict[str, dict[str, float]]
) -> TrialFacts:
    first = spec.rungs[0].n_samples
    kind = "adopted" if record.origin is not None else record.source.partition("/")[0]
    state: Literal["scored", "rejected", "stopped", "collapsed"] = "scored"
    if record.collapsed_by(first):
        state = "collapsed"
    elif record.stopped is not None:
        state = "stopped"
    elif not record.kept[first]:
        state = "rejected"
    stderr = None
    if base is not None and state in ("scored", "rejected"):
        reference = base.scores_at(first)
        stderr = paired_difference(spec.objective, record.scores_at(first), reference, reference).stderr
    # By what it is, not by where it came from: a retried or an adopted one may have another source.
    name = next((name for name, weights in baselines.items() if weights == record.weights), None)
    baseline = "base_model" if name == "zero" else name
    return TrialFacts(record.number, record.values[first], kind, state, record.weights, stderr, baseline)
