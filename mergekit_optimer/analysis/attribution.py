"""What each vector brings: the winner against itself without one vector, on the held-out set. And, apart from it, what
Optuna's importances say of the study.

The two answer different questions. A difference says what the winner loses on the held-out set when one vector is left
out and no other weight is changed. An importance says how much a weight decided the objective over the whole study, on
the dev set, harm as much as help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mergekit_optimer.compare import BASE, WINNER, Interval, Scores, compare
from mergekit_optimer.machine import import_apart
from mergekit_optimer.recipe import WeightInterval
from mergekit_optimer.search import TrialRecord

# With fewer trials than this an importance says nothing.
MIN_TRIALS = 10
_WITHOUT = "without/"


@dataclass(frozen=True)
class Difference:
    """Winner less winner without the vector, positive where the vector helps, with a 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def word(self) -> str:
        """``helps`` or ``harms`` only where the interval leaves out zero."""
        if self.low > 0:
            return "helps"
        return "harms" if self.high < 0 else "no clear difference"


@dataclass(frozen=True)
class VectorAttribution:
    """One vector of the winner, by held-out task and in the mean."""

    weight: float
    tasks: dict[str, Difference]
    mean: Difference


@dataclass(frozen=True)
class Attribution:
    """All vectors of the winner.

    Attributes:
        importances: Share of each weight, summing to 1; None where the study is too small.
        importances_method: What computed them, over which trials.
        mean_of: What the mean over tasks is of, as in a ``Comparison``.
    """

    vectors: dict[str, VectorAttribution]
    importances: dict[str, float] | None
    importances_method: str
    n_resamples: int
    level: float
    mean_of: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """One row a vector and held-out task; the mean is a row of its own, and has the importance beside it."""
        shares = self.importances or {}
        return [
            {"vector": name, "weight": one.weight, "held_out": task}
            | asdict(part)
            | {"importance": shares.get(name) if part is one.mean else None}
            for name, one in self.vectors.items()
            for task, part in {**one.tasks, "mean": one.mean}.items()
        ]


def attribute(
    weights: Mapping[str, float],
    winner: Mapping[str, Any],
    base: Mapping[str, Any],
    without: Scores,
    importances: tuple[dict[str, float] | None, str],
    *,
    seed: int,
    n_resamples: int = 10_000,
) -> Attribution:
    """Compare the winner with itself without each vector, by the same paired bootstrap as with the baselines.

    Args:
        weights: The winner's.
        winner: Held-out scores of the winner by task; ``base`` alike, for the unit of the mean of unlike metrics.
        without: Vector -> task -> scores with its weight at 0.
        importances: From ``study_importances``.

    Raises:
        TaskError: Models were scored on different samples.
    """
    models = {WINNER: winner, BASE: base} | {f"{_WITHOUT}{name}": scores for name, scores in without.items()}
    comparison = compare(models, seed=seed, n_resamples=n_resamples)
    vectors = {}
    for name, weight in sorted(weights.items()):
        found = comparison.baselines[f"{_WITHOUT}{name}"]
        by_task = {task: _difference(interval) for task, interval in found.tasks.items()}
        vectors[name] = VectorAttribution(weight, by_task, _difference(found.mean))
    shares, method = importances
    return Attribution(vectors, shares, method, n_resamples, comparison.level, comparison.mean_of)


def study_importances(
    records: Sequence[TrialRecord], intervals: Mapping[str, WeightInterval], n_samples: int
) -> tuple[dict[str, float] | None, str]:
    """Optuna's importance of each weight for the objective on the first rung, and how it was computed.

    Trials that a race stopped have an estimate and collapsed ones a floor for a value: both are left out.

    Args:
        intervals: Search interval of each vector.
        n_samples: Size of the first rung.

    Source: Watanabe, Bansal and Hutter 2023, "PED-ANOVA", arXiv 2304.10255.
    """
    import_apart("optuna")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {
        name: optuna.distributions.FloatDistribution(interval.low, interval.high)
        for name, interval in sorted(intervals.items())
    }
    used = [
        record
        for record in records
        if n_samples in record.values
        and record.stopped is None
        and not record.collapsed_by(n_samples)
        and all(space[name].low <= weight <= space[name].high for name, weight in record.weights.items())
    ]
    said = f"PED-ANOVA of Optuna {optuna.__version__} over {len(used)} trials of the study, on the dev set"
    if len(used) < MIN_TRIALS:
        return None, f"{said}: too few, it needs {MIN_TRIALS}"
    study = optuna.create_study(direction="maximize")
    for record in used:
        trial = optuna.trial.create_trial(params=record.weights, distributions=space, value=record.values[n_samples])
        study.add_trial(trial)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    method = f"{said}: how much a weight decides whether a trial is among the best tenth, whatever the sign"
    return {name: float(found[name]) for name in space}, method


def _difference(interval: Interval) -> Difference:
    return Difference(interval.difference, interval.low, interval.high)
