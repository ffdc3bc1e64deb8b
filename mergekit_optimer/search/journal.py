"""The study's journal file: opened so that a kill at any moment costs at most the trials in flight."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import SearchError
from mergekit_optimer.machine import import_apart

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted"


def repair_journal(path: Path) -> None:
    """Cut a journal at its last whole line and drop a dead process' lock; what is cut is kept beside it.

    Optuna appends to a torn last line, and every later load then fails. The caller must hold the run folder.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    good = 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n") or not _is_json(line):
            break
        good += len(line)
    if good == len(content):
        return
    torn = path.with_name(path.name + ".torn")
    with torn.open("ab") as file:
        file.write(content[good:] + b"\n")
    with path.open("r+b") as file:
        file.truncate(good)
    log.warning("%s ended in the middle of a line; the rest is kept in %s", path, torn)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def open_study(path: Path, name: str, identity: str, tasks: Sequence[str] = ()) -> Any:
    """Open or make the study in a journal file, repaired and without stale trials.

    Args:
        identity: Hash of what decides a score (recipe, pool, tasks); kept in the study.
        tasks: What is maximised each by itself, for a Pareto front; where there are none, one number is.

    Raises:
        SearchError: The study was made with another identity.
    """
    import_apart("optuna")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    repair_journal(path)
    storage = JournalStorage(JournalFileBackend(str(path)))
    directions = ["maximize"] * max(1, len(tasks))
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    known = study.user_attrs.get("identity")
    if known is None:
        study.set_user_attr("identity", identity)
        if tasks:
            with warnings.catch_warnings():
                # Names for optuna-dashboard; nothing is lost where a later version does without.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(tasks))
    elif known != identity:
        raise SearchError(
            f"{path} belongs to a study of other vectors, tasks or objective. Restore them, or give another --run-dir."
        )
    # What was given up in an earlier session gets another chance: memory or a worker may be back.
    study.set_user_attr("session", study.user_attrs.get("session", 0) + 1)
    _sweep(study)
    return study


def _sweep(study: Any) -> None:
    """End the trials that a killed process left RUNNING; their weights are tried again."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        give_back(study, trial.number, INTERRUPTED)


def give_back(study: Any, number: int, reason: str, attempt: int | None = None) -> None:
    """Mark an unfinished trial FAILED with its reason; ``queue_retry`` will try its weights again.

    Args:
        attempt: Number of the coming attempt; None: as it was (an interruption is nobody's fault).
    """
    frozen = study.trials[number]
    _fail(study, number, {"reason": reason, "next_attempt": attempt or frozen.user_attrs.get("attempt", 1)})


def give_up(study: Any, number: int, reason: str) -> None:
    """Mark an unfinished trial FAILED for good, as far as this session goes."""
    _fail(study, number, {"reason": reason, "next_attempt": 1, "given_up_in": study.user_attrs["session"]})


def given_up(study: Any) -> int:
    """How many weight vectors were given up in this session."""
    session = study.user_attrs["session"]
    return sum(trial.user_attrs.get("given_up_in") == session for trial in study.get_trials(deepcopy=False))


def last_reason(study: Any) -> str:
    """Why the last trial that failed did."""
    reasons = [trial.user_attrs["reason"] for trial in study.trials if "reason" in trial.user_attrs]
    return str(reasons[-1]) if reasons else "unknown"


def _fail(study: Any, number: int, attributes: dict[str, Any]) -> None:
    import optuna

    trial = optuna.trial.Trial(study, study.trials[number]._trial_id)
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    study.tell(number, state=optuna.trial.TrialState.FAIL)


def queue_retry(study: Any, n_weights: int) -> bool:
    """Queue the weights of the first trial that was given back and not tried again; False where there is none.

    A trial that died before its weights were drawn needs no retry: the next proposal is the same.
    """
    session = study.user_attrs["session"]
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get("retry_of") for trial in trials}
    for trial in trials:
        attributes = trial.user_attrs
        if "next_attempt" not in attributes or trial.number in retried or attributes.get("given_up_in") == session:
            continue
        # Drawn one by one: a trial killed in between holds only some of its weights.
        weights = trial.system_attrs.get("fixed_params") or trial.params
        if len(weights) == n_weights:
            queued = {"retry_of": trial.number, "attempt": attributes["next_attempt"]}
            source = {"source": attributes["source"]} if "source" in attributes else {}
            study.enqueue_trial(weights, user_attrs=queued | source)
            return True
    return False
