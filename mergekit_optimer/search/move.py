"""A study's trials taken from its journal into another place, as they are: the same study goes on there."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from mergekit_optimer.errors import SearchError
from mergekit_optimer.machine import import_apart
from mergekit_optimer.recipe import Recipe
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search.journal import JournalFile
from mergekit_optimer.search.ledger import Ledger, packed
from mergekit_optimer.search.places import StudyPlace, open_study

log = logging.getLogger(__name__)

# Kept in the study, true while its trials come in: a move that was killed is gone on with and not searched on.
MOVING = "moving"


def move_trials(
    recipe: Recipe, source: RunDir, place: StudyPlace, identity: str, note: Callable[[], None] = lambda: None
) -> int:
    """Enter a run's trials into the same study elsewhere, in their order and with their numbers; again, nothing is new.

    The journal's trials stay as they are. The caller must hold the run's folder.

    Args:
        note: Called when nobody can search on in the other place before all trials are there, and before the first is.

    Returns:
        How many trials were entered now.

    Raises:
        SearchError: The run has no study in its folder, or another one; or the other place has trials of its own.
    """
    if not source.journal_path.exists():
        raise SearchError(f"{source.root} has no study in its folder to take along; leave --from out.")
    tasks = recipe.search.objective.pareto_tasks
    theirs = open_study(JournalFile(source.journal_path), recipe.name, identity, tasks)
    study = open_study(place, recipe.name, identity, tasks, theirs.user_attrs.get("identity_parts"))
    ledger = Ledger(source, theirs, recipe.search)

    def in_turn() -> int:
        with place.turn():
            return _enter(study, theirs, ledger, f"{source.root}, which go on in {place.label}", note)

    return place.patiently(in_turn)


def _enter(study: Any, theirs: Any, ledger: Ledger, where: str, note: Callable[[], None]) -> int:
    there, trials, known = study.get_trials(deepcopy=False), theirs.get_trials(deepcopy=False), study.user_attrs
    is_moving = known.get(MOVING)
    are_same = all(one.params == other.params for one, other in zip(there, trials, strict=False))
    if not are_same or (there and is_moving is None) or (is_moving is False and len(there) < len(trials)):
        raise SearchError(
            f"The database has trials of its own, not those of {where}. Leave --from out to go on with them, or give "
            "another database."
        )
    if is_moving is False:
        log.info("%d trials of %s: taken over before", len(trials), where)
        return 0
    study.set_user_attr(MOVING, True)
    note()
    for trial in trials[len(there) :]:
        study.add_trial(_as_it_is(trial, ledger))
    for key, value in theirs.user_attrs.items():
        if key not in known:
            study.set_user_attr(key, value)
    # Sessions are counted on: what was given up in one of the journal's is not in one of those to come.
    study.set_user_attr("session", max(known["session"], theirs.user_attrs["session"]))
    study.set_user_attr(MOVING, False)
    n_moved = len(trials) - len(there)
    log.info("%d trials of %s", n_moved, where)
    return n_moved


def check_moved(study: Any, label: str) -> None:
    """Check that a study is whole.

    Raises:
        SearchError: A move into it was interrupted.
    """
    if study.user_attrs.get(MOVING):
        raise SearchError(f"Not all trials have come into {label} yet; run the command with --from again, it goes on.")


def wait_until_whole(place: StudyPlace, name: str, is_hopeless: Callable[[], bool]) -> None:
    """Wait until another driver has begun a study, and has taken into it what it takes.

    Args:
        is_hopeless: Asked between looks.

    Raises:
        SearchError: It is hopeless.
    """
    import_apart("optuna")
    storage = place.patiently(place.storage)
    while not place.patiently(lambda: _is_whole(storage, name)):
        if is_hopeless():
            raise SearchError(f"Nobody has begun the study in {place.label}; run the same command again.")
        place.pause()


def _is_whole(storage: Any, name: str) -> bool:
    import optuna

    try:
        known = optuna.load_study(study_name=name, storage=storage).user_attrs
    except KeyError:
        return False
    return "identity" in known and not known.get(MOVING)


def _as_it_is(trial: Any, ledger: Ledger) -> Any:
    """A trial to be entered, with its scores; one that has not ended was interrupted."""
    import optuna

    entered = copy.deepcopy(trial)
    if trial.state == optuna.trial.TrialState.COMPLETE:
        entered.set_user_attr("record", packed(ledger.read(trial)))
    elif not trial.state.is_finished():
        # open_study ended what was running; what waits has not begun.
        entered.state = optuna.trial.TrialState.FAIL
        entered.datetime_start = entered.datetime_complete = datetime.now()
    return entered
