"""Where a study is kept: a journal file in the run folder, or a database that drivers on many machines share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from mergekit_optimer.errors import SearchError
from mergekit_optimer.machine import import_apart

Result = TypeVar("Result")


class StudyPlace(Protocol):
    """Where a study is kept, and how the drivers that share it keep out of each other's way."""

    @property
    def is_shared(self) -> bool:
        """Whether drivers on other machines may be at the same study."""

    @property
    def label(self) -> str:
        """What a person may be shown of it: no password."""

    def storage(self) -> Any:
        """Optuna's storage, opened."""

    def turn(self) -> AbstractContextManager[None]:
        """Held while it is decided what is tried next: one driver at a time."""

    def sweep(self, study: Any, at_start: bool = False) -> None:
        """End the trials whose driver is dead; their weights are tried again. To be called in a turn."""

    def begin(self, trial: Any) -> None:
        """Say that a trial's driver lives, from now on, in the turn in which it was asked for."""

    def end(self, number: int) -> None:
        """Say no more of it."""

    def claim(self, what: str) -> bool:
        """Take a piece of work that one driver is to do; False where another has it, and lives."""

    def release(self, what: str) -> None:
        """Give a claim back."""

    def pause(self) -> None:
        """Let a moment pass, where other drivers have what is left to do."""

    def patiently(self, work: Callable[[], Result]) -> Result:
        """Do what may be done again, waiting for a database that is away for a while."""

    def close(self) -> None:
        """Leave the study."""


def open_study(
    place: StudyPlace,
    name: str,
    identity: str,
    tasks: Sequence[str] = (),
    parts: Mapping[str, str] | None = None,
) -> Any:
    """Open or make the study, without stale trials.

    Args:
        identity: Hash of what decides a score and a proposal (recipe, pool, tasks); kept in the study.
        tasks: What is maximised each by itself, for a Pareto front; where there are none, one number is.
        parts: Hash of each part of the identity, by a name that a person knows; to say what differs.

    Raises:
        SearchError: The study was made with another identity.
    """
    import_apart("optuna")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = place.patiently(place.storage)
    return place.patiently(lambda: _opened(storage, place, name, identity, tasks, parts or {}))


def _opened(
    storage: Any, place: StudyPlace, name: str, identity: str, tasks: Sequence[str], parts: Mapping[str, str]
) -> Any:
    import optuna

    with place.turn():
        directions = ["maximize"] * max(1, len(tasks))
        study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        if "identity" not in study.user_attrs:
            study.set_user_attr("identity_parts", dict(parts))
            study.set_user_attr("identity", identity)
            if tasks:
                with warnings.catch_warnings():
                    # Names for optuna-dashboard; nothing is lost where a later version does without.
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names(list(tasks))
        _check_identity(study, place, identity, parts)
        # What was given up in an earlier session gets another chance: memory or a worker may be back.
        study.set_user_attr("session", study.user_attrs.get("session", 0) + 1)
        place.sweep(study, at_start=True)
    return study


def _check_identity(study: Any, place: StudyPlace, identity: str, parts: Mapping[str, str]) -> None:
    """Check that a study is this recipe's, over this pool, base and dev samples; say what differs."""
    if study.user_attrs["identity"] == identity:
        return
    known = study.user_attrs.get("identity_parts", {})
    differing = ", ".join(sorted(part for part, value in parts.items() if known and known.get(part) != value))
    elsewhere = "the recipe another name, or another database" if place.is_shared else "another --run-dir"
    raise SearchError(
        f"{place.label} belongs to a study of other vectors, tasks or objective"
        f"{f' ({differing})' if differing else ''}. Restore them, or give {elsewhere}."
    )
