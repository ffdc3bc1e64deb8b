"""The Optuna study over merge weights: warm starts, proposals, rungs, failures, resume. Knows no model: no torch.

Merging and scoring come in as one callable. Files first, journal second: a trial counts once its scores are on disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import DiskError, InfrastructureError, SearchError
from mergekit_optimer.recipe import Recipe
from mergekit_optimer.runs import RunDir, read_json, write_json
from mergekit_optimer.scores import TaskScores, collapsed, floored
from mergekit_optimer.search.journal import INTERRUPTED, give_back, give_up, given_up, open_study, queue_retry
from mergekit_optimer.search.objective import Judgement, judge, needs_base
from mergekit_optimer.search.proposals import make_sampler, warm_start_weights
from mergekit_optimer.search.records import Measured, MergeAndScore, SearchResult, TrialRecord, append_samples

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
MAX_GIVEN_UP = 3


class Search:
    """One study in one run folder."""

    def __init__(self, recipe: Recipe, run: RunDir, vectors: list[str], identity: str, score: MergeAndScore) -> None:
        """Open the study, new or begun.

        Args:
            identity: Hash of what decides a score; a study begun with another is refused.
            score: Merges and scores one weight vector.
        """
        self._recipe, self._run, self._vectors, self._score = recipe, run, vectors, score
        self._spec = recipe.search
        self._study = open_study(run.journal_path, recipe.name, identity)
        self._warm_starts = self._warm_starts_inside()
        self._base: TrialRecord | None = None
        self._started = time.monotonic()

    def run(self) -> SearchResult:
        """Bring the study to ``n_trials`` done trials, climb the rungs, and return the winner.

        Raises:
            SearchError: Every trial failed, or none was kept.
        """
        import optuna

        intervals = {name: self._spec.interval(name) for name in self._vectors}
        space = {name: optuna.distributions.FloatDistribution(i.low, i.high) for name, i in intervals.items()}
        begun_at = self._n_done()
        while (n_done := self._n_done()) < self._spec.n_trials:
            self._stop_when_nothing_works()
            self._queue_next()
            self._study.sampler = make_sampler(self._spec.sampler, self._recipe.seed, n_done)
            trial = self._study.ask(space)
            self._run_trial(trial, n_done, begun_at)
        records = self.records()
        if not records:
            raise SearchError(f"All {self._spec.n_trials} trials failed; the last reason: {self._last_reason()}")
        winner = self._climb()
        done = [trial for trial in self._study.get_trials(deepcopy=False) if trial.datetime_complete]
        started, finished = min(t.datetime_start for t in done), max(t.datetime_complete for t in done)
        return SearchResult(winner, self.records(), given_up(self._study), _utc(started), _utc(finished))

    def records(self) -> list[TrialRecord]:
        """The finished trials in order, read from their files."""
        import optuna

        done = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return [TrialRecord.from_json(read_json(self._scores_path(trial.number))) for trial in done]

    def _queue_next(self) -> None:
        """Queue what comes before the sampler's own proposals: weights given back, then the next warm start."""
        import optuna

        if self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
            return
        if queue_retry(self._study, len(self._vectors)):
            return
        known = {trial.user_attrs.get("source") for trial in self._study.get_trials(deepcopy=False)}
        for name, weights in self._warm_starts.items():
            if f"warm_start/{name}" not in known:
                self._study.enqueue_trial(weights, user_attrs={"source": f"warm_start/{name}"})
                return

    def _warm_starts_inside(self) -> dict[str, dict[str, float]]:
        """The warm starts that lie in the search interval, the base first where trials are measured against it."""
        starts = list(self._spec.warm_starts)
        if needs_base(self._spec.objective):
            starts = ["zero", *[start for start in starts if start != "zero"]]
        inside = {}
        for name, weights in warm_start_weights(self._vectors, starts).items():
            intervals = {vector: self._spec.interval(vector) for vector in weights}
            outside = [v for v, weight in weights.items() if not intervals[v].low <= weight <= intervals[v].high]
            if outside:
                log.info("warm start %s lies outside the interval of %s and is left out", name, ", ".join(outside))
            else:
                inside[name] = weights
        return inside

    def _run_trial(self, trial: Any, n_done: int, begun_at: int) -> None:
        import optuna

        weights = {name: float(trial.params[name]) for name in self._vectors}
        n_samples = self._spec.rungs[0].n_samples
        started = time.monotonic()
        try:
            measured = self._score(weights, self._run.trial_dir(trial.number), 0, n_samples)
            source = trial.user_attrs.get("source", "sampler")
            record, judgement = self._judged(trial.number, weights, source, n_samples, measured)
            write_json(self._scores_path(trial.number), record.to_json())
        except (DiskError, OSError) as error:
            # A full disk would fail every trial to come: stop, and go on from here when there is room.
            give_back(self._study, trial.number, f"{type(error).__name__}: {error}")
            raise
        except (InfrastructureError, MemoryError) as error:
            self._fail(trial, error)
            return
        except BaseException:
            give_back(self._study, trial.number, INTERRUPTED)
            raise
        for task, excess in judgement.violations.items():
            trial.set_constraint(task, excess)
        trial.set_user_attr("is_kept", record.is_kept)
        trial.set_user_attr("collapsed", record.collapsed)
        self._study.tell(trial, record.value, state=optuna.trial.TrialState.COMPLETE)
        self._say(record, n_done + 1, begun_at, time.monotonic() - started)

    def _judged(
        self, number: int, weights: dict[str, float], source: str, n_samples: int, measured: Measured
    ) -> tuple[TrialRecord, Judgement]:
        fallen = collapsed(measured.scores)
        scores = floored(measured.scores)
        judgement = self._judge(scores, n_samples, is_base=not any(weights.values()))
        record = TrialRecord(
            number=number,
            weights=weights,
            source=source,
            n_samples=n_samples,
            values={n_samples: judgement.value},
            kept={n_samples: judgement.is_kept and not fallen},
            collapsed=fallen,
            merge_s=round(measured.merge_s, 4),
            score_s=round(measured.score_s, 4),
            scores=scores,
        )
        return record, judgement

    def _judge(self, scores: dict[str, TaskScores], n_samples: int, is_base: bool) -> Judgement:
        base = None
        if needs_base(self._spec.objective):
            base = scores if is_base else self._base_scores(n_samples)
        return judge(self._spec.objective, scores, base)

    def _base_scores(self, n_samples: int) -> dict[str, TaskScores]:
        """The base's scores on the first n samples, from the trial at zero weights."""
        if self._base is None or self._base.n_samples < n_samples:
            self._base = _base_record(self.records())
        return {name: task.head(n_samples) for name, task in self._base.scores.items()}

    def _fail(self, trial: Any, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}"
        attempt = int(trial.user_attrs.get("attempt", 1))
        if attempt < MAX_ATTEMPTS:
            log.warning("trial #%d FAILED (%s); its weights are tried again", trial.number, reason)
            give_back(self._study, trial.number, reason, attempt + 1)
            return
        log.warning("trial #%d FAILED (%s); given up after %d attempts", trial.number, reason, attempt)
        give_up(self._study, trial.number, reason)

    def _stop_when_nothing_works(self) -> None:
        """Stop after some weight vectors in a row were given up: the machine, not the weights, is what fails."""
        import optuna

        ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
        trials = self._study.get_trials(deepcopy=False, states=ended)
        last = trials[-MAX_GIVEN_UP * MAX_ATTEMPTS :]
        in_row = sum(trial.user_attrs.get("given_up_in") == self._study.user_attrs["session"] for trial in last)
        if in_row == MAX_GIVEN_UP and all(trial.state == optuna.trial.TrialState.FAIL for trial in last):
            raise SearchError(
                f"{MAX_GIVEN_UP} weight vectors in a row failed {MAX_ATTEMPTS} times each; the last reason: "
                f"{self._last_reason()} Mend it, then run the same command again: it goes on."
            )

    def _last_reason(self) -> str:
        reasons = [trial.user_attrs["reason"] for trial in self._study.trials if "reason" in trial.user_attrs]
        return str(reasons[-1]) if reasons else "unknown"

    def _climb(self) -> TrialRecord:
        """Re-score the best of each rung on the next one's samples; return the best of the last."""
        contenders = _kept_at(self._spec.rungs[0].n_samples, self.records())
        for below, rung in zip(self._spec.rungs, self._spec.rungs[1:], strict=False):
            # By the rung below, also for a trial that climbed before: a restart must pick the same ones.
            best = sorted(contenders, key=_rank_at(below.n_samples))[: rung.top]
            if needs_base(self._spec.objective):
                self._base = self._extend(_base_record(self.records()), rung.n_samples)
            # Read anew: the base may be among the best and has just been extended.
            now = {record.number: record for record in self.records()}
            contenders = [self._extend(now[record.number], rung.n_samples) for record in best]
            contenders = _kept_at(rung.n_samples, contenders)
            for record in sorted(contenders, key=_rank_at(rung.n_samples)):
                value = record.values[rung.n_samples]
                log.info("rung of %d samples: trial #%d  dev %.4f", rung.n_samples, record.number, value)
        return min(contenders, key=_rank_at(self._spec.rungs[-1].n_samples))

    def _extend(self, record: TrialRecord, n_samples: int) -> TrialRecord:
        """Score the samples a trial has not seen yet; a trial that got this far before is left alone."""
        if record.n_samples >= n_samples:
            return record
        start = record.n_samples
        measured = self._score(record.weights, self._run.trial_dir(record.number), start, n_samples)
        scores = {name: append_samples(task, measured.scores.get(name)) for name, task in record.scores.items()}
        fallen = collapsed(scores)
        scores = floored(scores)
        judgement = self._judge(scores, n_samples, is_base=not any(record.weights.values()))
        longer = TrialRecord(
            **{
                **vars(record),
                "n_samples": n_samples,
                "values": record.values | {n_samples: judgement.value},
                "kept": record.kept | {n_samples: judgement.is_kept and not fallen},
                "collapsed": fallen,
                "merge_s": round(record.merge_s + measured.merge_s, 4),
                "score_s": round(record.score_s + measured.score_s, 4),
                "scores": scores,
            }
        )
        write_json(self._scores_path(record.number), longer.to_json())
        return longer

    def _say(self, record: TrialRecord, n_done: int, begun_at: int, elapsed_s: float) -> None:
        best_value, best_number = self._best()
        left_s = (time.monotonic() - self._started) / (n_done - begun_at) * (self._spec.n_trials - n_done)
        marks = "  collapsed" if record.collapsed else "" if record.is_kept else "  rejected"
        log.info(
            "trial %d/%d  dev %.4f  best %.4f (#%d)  %.1f s  %s left%s  %s",
            n_done, self._spec.n_trials, record.value, best_value, best_number, elapsed_s, _duration(left_s), marks,
            " ".join(f"{name}={weight:+.2f}" for name, weight in record.weights.items()),
        )  # fmt: skip

    def _best(self) -> tuple[float, int]:
        """Objective and number of the best kept trial so far; of the best at all while none is kept."""
        import optuna

        done = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        kept = [trial for trial in done if trial.user_attrs.get("is_kept")] or done
        best = min(kept, key=lambda trial: (-trial.value, trial.number))
        return best.value, best.number

    def _n_done(self) -> int:
        import optuna

        complete = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return len(complete) + given_up(self._study)

    def _scores_path(self, number: int) -> Path:
        return self._run.trial_dir(number) / "scores.json"


def _base_record(records: list[TrialRecord]) -> TrialRecord:
    """The trial at zero weights, which is the base model."""
    for record in records:
        if not any(record.weights.values()):
            return record
    raise SearchError("The base model's trial failed, and the objective is measured against it; see the journal.")


def _kept_at(n_samples: int, records: list[TrialRecord]) -> list[TrialRecord]:
    """The trials that neither collapsed nor lost more than allowed on the first n samples."""
    kept = [record for record in records if record.kept[n_samples]]
    if not kept:
        raise SearchError(
            f"No trial was kept on {n_samples} samples: each collapsed or lost more than `keep` allows. "
            "Search on with a larger search.n_trials, or in another --run-dir with a looser keep or interval."
        )
    return kept


def _rank_at(n_samples: int) -> Callable[[TrialRecord], tuple[float, int]]:
    """Sort key by the objective on the first n samples: best first; of equals the earlier."""
    return lambda record: (-record.values[n_samples], record.number)


def _duration(seconds: float) -> str:
    """Say a duration as a person would: 38 s, 4 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _utc(moment: datetime) -> str:
    """Optuna's local, naive time as ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")
