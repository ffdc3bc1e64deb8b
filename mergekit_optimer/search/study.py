"""The Optuna study over merge weights: proposals, trials, failures, resume. Knows no model: no torch.

Merging and scoring are the workers'. Files first, study second: a trial counts once its scores are on disk. Everything
here happens in one thread, which alone writes; with one worker and a seed it is the same study every time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from mergekit_optimer.errors import SearchError
from mergekit_optimer.recipe import Recipe
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search.adopt import adopt_trials
from mergekit_optimer.search.agenda import GRADIENT, Agenda
from mergekit_optimer.search.flat import WINDOW, is_flat
from mergekit_optimer.search.flight import Flight, take_off
from mergekit_optimer.search.gradient import Slopes
from mergekit_optimer.search.journal import JournalFile
from mergekit_optimer.search.ledger import Ledger, WriteTrial
from mergekit_optimer.search.move import check_moved
from mergekit_optimer.search.objective import Judgement
from mergekit_optimer.search.pareto import front_of
from mergekit_optimer.search.places import StudyPlace, open_study
from mergekit_optimer.search.progress import Progress, Watch, trial_line
from mergekit_optimer.search.proposals import make_sampler
from mergekit_optimer.search.records import Measured, SearchResult, TrialRecord
from mergekit_optimer.search.retry import INTERRUPTED, give_back, give_up, given_up, last_reason
from mergekit_optimer.search.rungs import climb, rank
from mergekit_optimer.search.workers import MAX_ATTEMPTS, Workers, is_final

log = logging.getLogger(__name__)

MAX_GIVEN_UP = 3


class Search:
    """One study and its driver."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunDir,
        vectors: list[str],
        identity: str,
        workers: Workers,
        slopes: Slopes | None = None,
        watch: Watch | None = None,
        *,
        place: StudyPlace | None = None,
        parts: Mapping[str, str] | None = None,
        write_trial: WriteTrial | None = None,
    ) -> None:
        """Open the study, new or begun.

        Args:
            identity: Hash of what decides a score; a study begun with another is refused.
            workers: Merge and score weight vectors.
            slopes: Value and slope of the objective at one weight vector; needed for ``warm_starts: gradient``.
            watch: Told of every trial that ends; None: it has a line in the log.
            place: Where the study is kept; None: in the run folder's journal.
            parts: Hashes of the identity's parts, to say what differs.
            write_trial: Writes what a trial's folder holds besides its scores.
        """
        self._recipe, self._vectors, self._workers, self._watch = recipe, vectors, workers, watch
        self._spec, self._started = recipe.search, time.monotonic()
        self._place = place or JournalFile(run.journal_path)
        self._study = open_study(self._place, recipe.name, identity, self._spec.objective.pareto_tasks, parts)
        self._ledger = Ledger(run, self._study, self._spec, self._place, write_trial)
        self._agenda = Agenda(self._study, self._ledger, self._spec, vectors, recipe.seed, slopes)
        self._flights: dict[int, Flight] = {}

    def adopt(self, records: list[TrialRecord], origin: str) -> int:
        """Take over the trials of a finished study of the same base, pool and dev samples; see ``adopt_trials``."""

        def in_turn() -> int:
            with self._place.turn():
                check_moved(self._study, self._place.label)
                return adopt_trials(self._study, self._ledger, self._spec, self._space(), records, origin)

        return self._place.patiently(in_turn)

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
        winner = rank(self._spec, records) if rank_only else self._climb()
        done = self._ledger.complete()
        # What another study scored took no time here.
        done = [trial for trial in done if "origin" not in trial.user_attrs] or done
        started, finished = min(t.datetime_start for t in done), max(t.datetime_complete for t in done)
        known, n_failed = self._place.patiently(lambda: (self._study.user_attrs, given_up(self._study)))
        gradient = known.get(GRADIENT)
        return SearchResult(
            winner=winner,
            trials=self.records(),
            n_failed=n_failed,
            stopped_flat=ended_flat,
            gradient=gradient and {key: gradient[key] for key in ("n_evaluations", "sample_cost")},
            gradient_s=gradient.get("elapsed_s", 0.0) if gradient else 0.0,
            started=_utc(started),
            finished=_utc(finished),
        )

    def _climb(self) -> TrialRecord:
        return climb(self._spec, self._ledger, self._workers, self._place)

    def records(self) -> list[TrialRecord]:
        """The finished trials in order, those taken over from another study among them."""
        return self._ledger.records()

    def _space(self) -> dict[str, Any]:
        import optuna

        intervals = {name: self._spec.interval(name) for name in self._vectors}
        return {name: optuna.distributions.FloatDistribution(i.low, i.high) for name, i in intervals.items()}

    def _run_trials(self) -> bool:
        """Run trials until there are enough; True where the best no longer rose before that."""
        begun_at = self._n_done()
        # Now that everything is loaded: the time left is counted in trials.
        self._started = time.monotonic()
        ended_flat = False
        try:
            while True:
                while not ended_flat and len(self._flights) < self._workers.n_places:
                    flight, ended_flat = self._next_flight()
                    if flight is None:
                        break
                    self._go_on(flight, begun_at)
                if self._flights:
                    ended = self._workers.wait()
                    if ended is not None:
                        self._land(self._flights[ended[0]], ended[1], begun_at)
                elif self._place.is_shared and self._place.patiently(self._look)[0]:
                    # Other drivers' trials: what they bring may decide otherwise.
                    ended_flat = False
                    self._place.pause()
                elif ended_flat:
                    log.info(
                        "ended after %d of %d trials: none of the last %d raised the best by more than a standard "
                        "error",
                        self._n_done(), self._spec.n_trials, WINDOW * len(self._vectors),
                    )  # fmt: skip
                    return True
                elif self._n_done() >= self._spec.n_trials:
                    return False
        except BaseException as error:
            self._give_all_back(error)
            raise

    def _next_flight(self) -> tuple[Flight | None, bool]:
        trial, ended_flat = self._place.patiently(self._ask)
        if trial is None:
            return None, ended_flat
        flight = take_off(trial, self._vectors, self._ledger, self._spec.race)
        self._flights[flight.number] = flight
        return flight, False

    def _ask(self) -> tuple[Any, bool]:
        """Ask for the next trial; None where there are enough, or where the others must wait for the base's.

        Returns:
            The trial, and whether the study ends here because the best no longer rises.
        """
        with self._place.turn():
            check_moved(self._study, self._place.label)
            self._place.sweep(self._study)
            running, n_done = self._look()
            n_begun = n_done + len(running)
            if n_begun >= self._spec.n_trials or self._agenda.waits_for_base(running):
                return None, False
            self._stop_when_nothing_works()
            if self._spec.until_flat and is_flat(self._ledger, len(self._vectors)):
                return None, True
            self._agenda.queue_next(n_done)
            # By what is begun, not what is done: two trials in the air must not be drawn alike.
            self._study.sampler = make_sampler(self._spec.sampler, self._recipe.seed, n_begun, bool(running))
            trial = self._study.ask(self._space())
            self._place.begin(trial)
            return trial, False

    def _go_on(self, flight: Flight, begun_at: int, measured: Measured | None = None) -> None:
        """Submit what is to be scored next of a trial, or tell the study of a trial that is whole."""
        try:
            request = next(flight.steps) if measured is None else flight.steps.send(measured)
        except StopIteration as whole:
            record, judgement = whole.value
            self._ledger.write(record)
            self._place.patiently(lambda: self._tell(flight, record, judgement))
            self._end(flight)
            self._say(record, begun_at, time.monotonic() - flight.started)
            return
        self._workers.submit(flight.number, request)

    def _land(self, flight: Flight, outcome: Measured | BaseException, begun_at: int) -> None:
        if not isinstance(outcome, BaseException):
            self._go_on(flight, begun_at, outcome)
        elif is_final(outcome):
            # A full disk would fail every trial to come: stop, and go on from here when there is room.
            raise outcome
        else:
            self._place.patiently(lambda: self._fail(flight.trial, outcome))
            self._end(flight)

    def _tell(self, flight: Flight, record: TrialRecord, judgement: Judgement) -> None:
        import optuna

        first, trial = self._ledger.first_rung, flight.trial
        # Of a trial that a race stopped the estimate; a Pareto front has several values, and no race.
        told = judgement.values if self._spec.objective.pareto_tasks else [record.values[first]]
        try:
            for task, excess in judgement.violations.items():
                trial.set_constraint(task, excess)
            shared = self._ledger.shared_attributes(record)
            for key, value in {"is_kept": record.kept[first], "collapsed": record.collapsed, **shared}.items():
                trial.set_user_attr(key, value)
            self._study.tell(trial, told, state=optuna.trial.TrialState.COMPLETE)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            # Not heard of for so long that another driver gave its weights back.
            state = self._study.get_trials(deepcopy=False)[flight.number].state
            if state == optuna.trial.TrialState.COMPLETE:
                # Told by a try whose answer was lost.
                return
            if state != optuna.trial.TrialState.FAIL:
                raise
            log.warning("trial #%d was given to another driver meanwhile; its scores are left out", flight.number)

    def _end(self, flight: Flight) -> None:
        self._place.end(flight.number)
        del self._flights[flight.number]

    def _fail(self, trial: Any, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}"
        attempt = int(trial.user_attrs.get("attempt", 1))
        if attempt < MAX_ATTEMPTS:
            log.warning("trial #%d FAILED (%s); its weights are tried again", trial.number, reason)
            give_back(self._study, trial.number, reason, attempt + 1)
            return
        log.warning("trial #%d FAILED (%s); given up after %d attempts", trial.number, reason, attempt)
        give_up(self._study, trial.number, reason)

    def _give_all_back(self, error: BaseException) -> None:
        """End the trials in the air, so that their weights are tried again; what cannot be written is swept later."""
        reason = f"{type(error).__name__}: {error}" if is_final(error) else INTERRUPTED
        for number in sorted(self._flights):
            with suppress(Exception):
                give_back(self._study, number, reason)
            self._place.end(number)
        self._flights.clear()
        if not self._place.is_shared:
            # Asked for and not yet in the air.
            with suppress(Exception):
                self._place.sweep(self._study, at_start=True)

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

    def _say(self, record: TrialRecord, begun_at: int, elapsed_s: float) -> None:
        n_done, done, first = self._n_done(), self.records(), self._ledger.first_rung
        # The best at all while none is kept.
        best = min([r for r in done if r.kept[first]] or done, key=lambda r: (-r.values[first], r.number))
        told = [trial.values for trial in self._ledger.complete() if trial.user_attrs.get("is_kept")]
        n_front = len(front_of(told)) if self._spec.objective.pareto_tasks else None
        trial_s = (time.monotonic() - self._started) / max(1, n_done - begun_at)
        n_trials = self._spec.n_trials
        progress = Progress(record, n_done, n_trials, best.values[first], best.number, n_front, elapsed_s, trial_s)
        if self._watch is None:
            log.info(trial_line(progress))
        else:
            self._watch(progress)

    def _look(self) -> tuple[list[Any], int]:
        """The trials on their way, those of other drivers among them, and how many are done.

        By one look: a trial that ends between two would count twice. Done is what ran to its end or was given up, not
        what was taken over from another study.
        """
        import optuna

        state = optuna.trial.TrialState
        trials, session = self._study.get_trials(deepcopy=False), self._study.user_attrs["session"]
        running = [trial for trial in trials if trial.state == state.RUNNING]
        own = [trial.state == state.COMPLETE and "origin" not in trial.user_attrs for trial in trials]
        lost = [trial.state == state.FAIL and trial.user_attrs.get("given_up_in") == session for trial in trials]
        return running, sum(own) + sum(lost)

    def _n_done(self) -> int:
        return self._place.patiently(self._look)[1]


def _utc(moment: datetime) -> str:
    """Optuna's local, naive time as ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")
