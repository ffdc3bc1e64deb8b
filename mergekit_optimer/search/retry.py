"""Trials that did not end: given back to be tried again, or given up. Decided from the study alone."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

INTERRUPTED = "interrupted"


def sweep(study: Any) -> None:
    """End the trials that a killed process left RUNNING; their weights are tried again."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        give_back(study, trial.number, INTERRUPTED)


def give_back(study: Any, number: int, reason: str, attempt: int | None = None) -> None:
    """Mark an unfinished trial FAILED with its reason; ``queue_retry`` will try its weights again.

    Args:
        attempt: Number of the coming attempt; None: as it was (an interruption is nobody's fault).
    """
    attempt = attempt or study.get_trials(deepcopy=False)[number].user_attrs.get("attempt", 1)
    _fail(study, number, {"reason": reason, "next_attempt": attempt})


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

    trial = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    # Another driver may have given it back already.
    with suppress(optuna.exceptions.UpdateFinishedTrialError):
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        study.tell(number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)


def queue_retry(study: Any, n_weights: int) -> bool:
    """Queue the weights of the first trial that was given back and not tried again; False where there is none.

    A trial that died before its weights were drawn needs no retry: the next proposal is the same.
    """
    import optuna

    session = study.user_attrs["session"]
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get("retry_of") for trial in trials}
    for trial in trials:
        attributes = trial.user_attrs
        if trial.state != optuna.trial.TrialState.FAIL or trial.number in retried:
            continue
        if attributes.get("given_up_in") == session:
            continue
        # Drawn one by one: a trial killed in between holds only some of its weights.
        weights = trial.system_attrs.get("fixed_params") or trial.params
        if len(weights) == n_weights:
            # One that a storage failed, as its driver was no longer heard of, says nothing of attempts.
            attempt = attributes.get("next_attempt", attributes.get("attempt", 1))
            queued = {"retry_of": trial.number, "attempt": attempt}
            source = {"source": attributes["source"]} if "source" in attributes else {}
            study.enqueue_trial(weights, user_attrs=queued | source)
            return True
    return False
