"""What a study tries next: weights given back, warm starts, where the gradient leads, what the surrogate proposes.

Where nothing is queued, Optuna's sampler proposes. Everything is decided from the study, so that a study stopped and
started again tries what an uninterrupted one would have.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import monotonic as clock
from typing import Any

from mergekit_optimer.errors import DiskError, InfrastructureError, SearchError
from mergekit_optimer.recipe import SearchSection
from mergekit_optimer.search.gradient import Slopes, climb_gradient
from mergekit_optimer.search.ledger import Ledger
from mergekit_optimer.search.objective import needs_base, worth
from mergekit_optimer.search.proposals import Point, propose, warm_start_weights
from mergekit_optimer.search.records import WARM_START, TrialRecord
from mergekit_optimer.search.retry import queue_retry

log = logging.getLogger(__name__)

GRADIENT = "gradient"
# The session in which the climb failed for lack of memory; another one, on a freed machine, tries it again.
LEFT_OUT_IN = "gradient_left_out_in"


class Agenda:
    """Queues one weight vector at a time into the study."""

    def __init__(
        self, study: Any, ledger: Ledger, spec: SearchSection, vectors: list[str], seed: int, slopes: Slopes | None
    ) -> None:
        if GRADIENT in spec.warm_starts and slopes is None:
            raise SearchError("warm_starts: gradient needs a model with slopes, which this search was not given.")
        self._study, self._ledger, self._spec = study, ledger, spec
        self._vectors, self._seed, self._slopes = vectors, seed, slopes
        self._warm_starts = self._warm_starts_inside()
        self._known: dict[int, Point] = {}

    def queue_next(self, n_done: int) -> None:
        """Queue what comes before the sampler's own proposal; nothing where the sampler proposes."""
        import optuna

        if self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
            return
        if queue_retry(self._study, len(self._vectors)) or self._queue_warm_start() or self._queue_promising():
            return
        weights = propose(self._spec, self._vectors, self._points(), self._pending(), self._seed, n_done)
        if weights is not None:
            source = "surrogate" if self._spec.sampler.name == "tpe" else "sampler"
            self._study.enqueue_trial(weights, user_attrs={"source": source})

    def waits_for_base(self, running: list[Any]) -> bool:
        """Whether the base's trial is on its way and the others, which are measured against it, must wait for it."""
        if not needs_base(self._spec.objective) or not running:
            return False
        return not any(r.is_base and r.stopped is None for r in self._ledger.records())

    def _queue_warm_start(self) -> bool:
        trials = self._study.get_trials(deepcopy=False)
        own = {trial.user_attrs.get("source") for trial in trials if "origin" not in trial.user_attrs}
        records = self._ledger.records()
        taken_over = [r.weights for r in records if r.origin is not None and r.stopped != "race"]
        for name, weights in self._warm_starts.items():
            if WARM_START + name not in own and weights not in taken_over:
                return self._queue(name, weights)
        if GRADIENT in self._spec.warm_starts:
            for number, weights in enumerate(self._gradient_points(), 1):
                if f"{WARM_START}{GRADIENT}/{number}" not in own:
                    return self._queue(f"{GRADIENT}/{number}", weights)
        return False

    def _queue(self, name: str, weights: dict[str, float]) -> bool:
        self._study.enqueue_trial(weights, user_attrs={"source": WARM_START + name})
        return True

    def _queue_promising(self) -> bool:
        """Queue what a race for another objective stopped, and this one puts above the best: it is scored anew."""
        best, records = self._ledger.incumbent(), self._ledger.records()
        if best is None:
            return False
        first = self._ledger.first_rung
        own = [trial.params for trial in self._study.get_trials(deepcopy=False) if "origin" not in trial.user_attrs]
        stopped = [r for r in records if r.origin is not None and r.stopped == "race" and r.weights not in own]
        promising = [record for record in stopped if record.values[first] > best.values[first]]
        if not promising:
            return False
        first_of_all = min(promising, key=lambda record: (-record.values[first], record.number))
        self._study.enqueue_trial(first_of_all.weights, user_attrs={"source": "adopted"})
        return True

    def _gradient_points(self) -> list[dict[str, float]]:
        """Where following the gradient ended: climbed once, then kept in the study."""
        known, session = self._study.user_attrs, self._study.user_attrs["session"]
        if GRADIENT not in known and known.get(LEFT_OUT_IN) != session:
            climbed = self._climb()
            key, value = (LEFT_OUT_IN, session) if climbed is None else (GRADIENT, climbed)
            self._study.set_user_attr(key, value)
        points: list[dict[str, float]] = self._study.user_attrs.get(GRADIENT, {"points": []})["points"]
        return points

    def _climb(self) -> dict[str, Any] | None:
        """The climb's end points and cost; None where there is not memory enough now."""
        assert self._slopes is not None
        levels = warm_start_weights(self._vectors, ["zero", "uniform_average"])
        starts = [weights for weights in levels.values() if not self._outside(weights)] or [self._middle()]
        n_samples, started = self._ledger.first_rung, clock()
        try:
            climb = climb_gradient(_told(self._slopes), self._spec, self._vectors, starts, n_samples)
        except DiskError:
            raise
        except (InfrastructureError, MemoryError) as error:
            # A backward pass takes more memory than a forward pass; the search can do without.
            log.warning("gradient warm start left out: %s: %s", type(error).__name__, error)
            return None
        elapsed_s = round(clock() - started, 4)
        log.info(
            "gradient: %d evaluations at the cost of %.1f trials gave %d weight vectors",
            climb.n_evaluations, climb.sample_cost, len(climb.points),
        )  # fmt: skip
        return {
            "points": climb.points,
            "n_evaluations": climb.n_evaluations,
            "sample_cost": climb.sample_cost,
            "elapsed_s": elapsed_s,
        }

    def _middle(self) -> dict[str, float]:
        intervals = {name: self._spec.interval(name) for name in self._vectors}
        return {name: (interval.low + interval.high) / 2 for name, interval in intervals.items()}

    def _points(self) -> list[Point]:
        for trial, record in self._ledger.finished():
            if trial.number not in self._known:
                # What a finished trial is to a proposal changes no more.
                self._known[trial.number] = Point(
                    weights={name: float(trial.params[name]) for name in self._vectors},
                    value=self._worth(trial, record),
                    source=trial.user_attrs.get("source", "sampler"),
                    collapsed=bool(trial.user_attrs.get("collapsed")),
                    is_own="origin" not in trial.user_attrs,
                )
        return [self._known[number] for number in sorted(self._known)]

    def _worth(self, trial: Any, record: TrialRecord) -> float:
        # Not the trial's own: that of a Pareto front has several values.
        value = record.values[self._ledger.first_rung]
        excess = sum(max(0.0, violation) for violation in trial.constraints.values())
        if not excess:
            return value
        base_value = self._ledger.base().values[self._ledger.first_rung]
        return worth(self._spec.objective, value, excess, base_value)

    def _pending(self) -> list[dict[str, float]]:
        import optuna

        unfinished = (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING)
        trials = self._study.get_trials(deepcopy=False, states=unfinished)
        drawn = [trial.system_attrs.get("fixed_params") or trial.params for trial in trials]
        return [dict(weights) for weights in drawn if len(weights) == len(self._vectors)]

    def _warm_starts_inside(self) -> dict[str, dict[str, float]]:
        """The warm starts that lie in the search interval, the base first where trials are measured against it."""
        starts = [start for start in self._spec.warm_starts if start != GRADIENT]
        if needs_base(self._spec.objective):
            starts = ["zero", *[start for start in starts if start != "zero"]]
        inside = {}
        for name, weights in warm_start_weights(self._vectors, starts).items():
            if outside := self._outside(weights):
                log.info("warm start %s lies outside the interval of %s and is left out", name, ", ".join(outside))
            else:
                inside[name] = weights
        return inside

    def _outside(self, weights: dict[str, float]) -> list[str]:
        """Name the vectors whose weight lies outside its interval."""
        intervals = {name: self._spec.interval(name) for name in weights}
        return [name for name, w in weights.items() if not intervals[name].low <= w <= intervals[name].high]


def _told(slopes: Slopes) -> Slopes:
    """The same slopes, with a line for each time they are asked for: each takes as long as several trials."""
    n_asked = 0

    def tell(weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:
        nonlocal n_asked
        n_asked, started = n_asked + 1, clock()
        value, slope = slopes(weights, n_samples)
        log.info(
            "gradient: step %d  value %.4f on %d samples a task  %.1f s", n_asked, value, n_samples, clock() - started
        )
        return value, slope

    return tell
