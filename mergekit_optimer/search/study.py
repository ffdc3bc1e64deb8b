"""The Optuna study over merge weights: proposals, trials, failures, resume. Knows no model: no torch.

Merging and scoring come in as one callable. Files first, journal second: a trial counts once its scores are on disk.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mergekit_optimer.errors import DiskError, InfrastructureError, SearchError
from mergekit_optimer.recipe import Recipe
from mergekit_optimer.runs import RunDir
from mergekit_optimer.scores import collapsed, floored
from mergekit_optimer.search.adopt import WriteTrial, adopt_trials
from mergekit_optimer.search.agenda import GRADIENT, Agenda
from mergekit_optimer.search.flat import WINDOW, is_flat
from mergekit_optimer.search.gradient import Slopes
from mergekit_optimer.search.journal import INTERRUPTED, give_back, give_up, given_up, last_reason, open_study
from mergekit_optimer.search.ledger import Ledger
from mergekit_optimer.search.objective import Judgement, needs_base
from mergekit_optimer.search.pareto import front_of
from mergekit_optimer.search.progress import Progress, Watch, trial_line
from mergekit_optimer.search.proposals import make_sampler
from mergekit_optimer.search.race import Lap, score_in_chunks
from mergekit_optimer.search.records import MergeAndScore, SearchResult, TrialRecord, is_warm_start
from mergekit_optimer.search.rungs import climb, rank

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
MAX_GIVEN_UP = 3


class Search:
    """One study in one run folder."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunDir,
        vectors: list[str],
        identity: str,
        score: MergeAndScore,
        slopes: Slopes | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Open the study, new or begun.

        Args:
            identity: Hash of what decides a score; a study begun with another is refused.
            score: Merges and scores one weight vector.
            slopes: Value and slope of the objective at one weight vector; needed for ``warm_starts: gradient``.
            watch: Told of every trial that ends; None: it has a line in the log.
        """
        self._recipe, self._vectors, self._score, self._watch = recipe, vectors, score, watch
        self._spec, self._started = recipe.search, time.monotonic()
        self._study = open_study(run.journal_path, recipe.name, identity, self._spec.objective.pareto_tasks)
        self._ledger = Ledger(run, self._study, self._spec)
        self._agenda = Agenda(self._study, self._ledger, self._spec, vectors, recipe.seed, slopes)

    def adopt(self, records: list[TrialRecord], origin: str, write_trial: WriteTrial | None = None) -> int:
        """Take over the trials of a finished study of the same base, pool and dev samples; see ``adopt_trials``.

        Args:
            write_trial: Writes what a trial's folder holds besides its scores.
        """
        return adopt_trials(self._study, self._ledger, self._spec, self._space(), records, origin, write_trial)

    def run(self, rank_only: bool = False) -> SearchResult:
        """Bring the study to ``n_trials`` done trials, climb the rungs, and return the winner.

        Args:
            rank_only: Score nothing: the winner is the best of what is scored already.

        Raises:
            SearchError: Every trial failed, or none was kept.
        """
        ended_flat = not rank_only and self._run_trials()
        records = self.records()
        if not records and rank_only:
            raise SearchError("There is no finished trial to rank.")
        if not records:
            raise SearchError(f"All {self._spec.n_trials} trials failed; the last reason: {last_reason(self._study)}")
        winner = rank(self._spec, records) if rank_only else climb(self._spec, self._ledger, self._score)
        done = self._ledger.complete()
        # What another study scored took no time here.
        done = [trial for trial in done if "origin" not in trial.user_attrs] or done
        started, finished = min(t.datetime_start for t in done), max(t.datetime_complete for t in done)
        gradient = self._study.user_attrs.get(GRADIENT)
        return SearchResult(
            winner=winner,
            trials=self.records(),
            n_failed=given_up(self._study),
            stopped_flat=ended_flat,
            gradient=gradient and {key: gradient[key] for key in ("n_evaluations", "sample_cost")},
            gradient_s=gradient.get("elapsed_s", 0.0) if gradient else 0.0,
            started=_utc(started),
            finished=_utc(finished),
        )

    def records(self) -> list[TrialRecord]:
        """The finished trials in order, those taken over from another study among them."""
        return self._ledger.records()

    def _space(self) -> dict[str, Any]:
        import optuna

        intervals = {name: self._spec.interval(name) for name in self._vectors}
        return {name: optuna.distributions.FloatDistribution(i.low, i.high) for name, i in intervals.items()}

    def _run_trials(self) -> bool:
        """Run trials until there are enough; True where the best no longer rose before that."""
        space, begun_at = self._space(), self._n_done()
        # Now that everything is loaded: the time left is counted in trials.
        self._started = time.monotonic()
        while (n_done := self._n_done()) < self._spec.n_trials:
            self._stop_when_nothing_works()
            if self._spec.until_flat and is_flat(self._ledger, len(self._vectors)):
                log.info(
                    "ended after %d of %d trials: none of the last %d raised the best by more than a standard error",
                    n_done, self._spec.n_trials, WINDOW * len(self._vectors),
                )  # fmt: skip
                return True
            self._agenda.queue_next(n_done)
            self._study.sampler = make_sampler(self._spec.sampler, self._recipe.seed, n_done)
            self._run_trial(self._study.ask(space), n_done, begun_at)
        return False

    def _run_trial(self, trial: Any, n_done: int, begun_at: int) -> None:
        import optuna

        weights = {name: float(trial.params[name]) for name in self._vectors}
        source = trial.user_attrs.get("source", "sampler")
        started = time.monotonic()
        try:
            record, judgement = self._scored(trial.number, weights, source)
            self._ledger.write(record)
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
        first = self._ledger.first_rung
        trial.set_user_attr("is_kept", record.kept[first])
        trial.set_user_attr("collapsed", record.collapsed)
        # Of a trial that a race stopped the estimate; a Pareto front has several values, and no race.
        told = judgement.values if self._spec.objective.pareto_tasks else [record.values[first]]
        self._study.tell(trial, told, state=optuna.trial.TrialState.COMPLETE)
        self._say(record, n_done + 1, begun_at, time.monotonic() - started)

    def _scored(self, number: int, weights: dict[str, float], source: str) -> tuple[TrialRecord, Judgement]:
        """Merge and score a weight vector, unless the very same one is scored already."""
        first = self._ledger.first_rung
        twin = self._ledger.twin(weights, whole=source == "adopted" or is_warm_start(source))
        if twin is not None:
            judgement = self._ledger.judge(twin.scores_at(first), min(twin.n_samples, first), weights)
            self._ledger.copy_merge(twin.number, number)
            # As the twin was before it climbed: a longer study must not differ from one run in one go.
            same = replace(twin.at_first(first), number=number, source=source, same_as=twin.number, origin=None)
            return replace(same, merge_s=0.0, score_s=0.0), judgement
        lap = self._lap(number, weights, source)
        fallen = collapsed(lap.measured.scores)
        scores = floored(lap.measured.scores)
        judgement = self._ledger.judge(scores, lap.n_samples, weights)
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

    def _lap(self, number: int, weights: dict[str, float], source: str) -> Lap:
        trial_dir, n_samples = self._ledger.trial_dir(number), self._ledger.first_rung
        if not self._spec.race:
            return Lap(self._score(weights, trial_dir, 0, n_samples), n_samples)
        is_reference = needs_base(self._spec.objective) and not any(weights.values())
        return score_in_chunks(
            self._score,
            self._ledger,
            weights,
            trial_dir,
            may_lose=not is_warm_start(source),
            may_collapse=not is_reference,
        )

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
                f"{last_reason(self._study)} Mend it, then run the same command again: it goes on."
            )

    def _say(self, record: TrialRecord, n_done: int, begun_at: int, elapsed_s: float) -> None:
        done, first = self.records(), self._ledger.first_rung
        # The best at all while none is kept.
        best = min([r for r in done if r.kept[first]] or done, key=lambda r: (-r.values[first], r.number))
        told = [trial.values for trial in self._ledger.complete() if trial.user_attrs.get("is_kept")]
        n_front = len(front_of(told)) if self._spec.objective.pareto_tasks else None
        trial_s = (time.monotonic() - self._started) / (n_done - begun_at)
        n_trials = self._spec.n_trials
        progress = Progress(record, n_done, n_trials, best.values[first], best.number, n_front, elapsed_s, trial_s)
        if self._watch is None:
            log.info(trial_line(progress))
        else:
            self._watch(progress)

    def _n_done(self) -> int:
        """Trials run to their end or given up; those taken over from another study are not counted."""
        return sum("origin" not in trial.user_attrs for trial in self._ledger.complete()) + given_up(self._study)


def _utc(moment: datetime) -> str:
    """Optuna's local, naive time as ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")
