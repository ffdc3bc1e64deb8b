"""The study's journal file: opened so that a kill at any moment costs at most the trials in flight."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mergekit_optimer.errors import SearchError
from mergekit_optimer.search.retry import sweep

Result = TypeVar("Result")

log = logging.getLogger(__name__)


# Optuna's codes in a journal: a trial's state is set, to complete.
_SET_STATE, _COMPLETE = 6, 1


def repair_journal(path: Path) -> None:
    """Cut a journal at its first damaged line and drop a dead process' lock; what is cut is kept beside it.

    Optuna appends to a torn last line, and every later load then fails. What a process could still write after it, as
    the disk was full, is cut too. The caller must hold the run folder.

    Raises:
        SearchError: Trials that were reported stand after the damage: a kill leaves none there.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    entries = [_read(line) for line in lines]
    n_good = next((number for number, entry in enumerate(entries) if entry is None), len(lines))
    if n_good == len(lines):
        return
    n_lost = sum(entry is not None and _reports_trial(entry) for entry in entries[n_good:])
    if n_lost:
        raise SearchError(
            f"Line {n_good + 1} of {path} is damaged, and {n_lost} reported trials stand after it. Restore the file "
            "from a copy, or search in another --run-dir; nothing was changed."
        )
    torn = path.with_name(path.name + ".torn")
    with torn.open("ab") as file:
        file.write(b"".join(lines[n_good:]) + b"\n")
    with path.open("r+b") as file:
        file.truncate(sum(map(len, lines[:n_good])))
    log.warning("the end of %s, from line %d on, was not written whole; it is kept in %s", path, n_good + 1, torn)


def _read(line: bytes) -> dict[str, Any] | None:
    """A line's entry; None where it is damaged."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _reports_trial(entry: dict[str, Any]) -> bool:
    return entry.get("op_code") == _SET_STATE and entry.get("state") == _COMPLETE


class JournalFile:
    """A study in a file of the run folder, which one process at a time holds: its driver is the only writer."""

    is_shared = False

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def label(self) -> str:
        return str(self.path)

    def storage(self) -> Any:
        """Optuna's storage over the repaired file.

        Raises:
            SearchError: Another version of Optuna wrote it.
        """
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.path.parent.mkdir(parents=True, exist_ok=True)
        repair_journal(self.path)
        try:
            return JournalStorage(JournalFileBackend(str(self.path)))
        except (AssertionError, KeyError, ValueError) as error:
            raise SearchError(
                f"{self.path} cannot be read; another version of Optuna may have written it. Search with the version "
                "in the run's manifest.json, or in another --run-dir."
            ) from error

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else decides here."""
        yield

    def sweep(self, study: Any, at_start: bool = False) -> None:
        """End what a killed driver left; while this one runs there is no other."""
        if at_start:
            sweep(study)

    def begin(self, trial: Any) -> None:
        """Nobody else asks whether a trial's driver lives."""

    def end(self, number: int) -> None:
        """As ``begin``."""

    def claim(self, what: str) -> bool:  # noqa: ARG002
        """Whether a piece of work is this driver's to do: all of it is."""
        return True

    def release(self, what: str) -> None:
        """As ``claim``."""

    def pause(self) -> None:
        """There are no others to wait for."""

    def patiently(self, work: Callable[[], Result]) -> Result:
        """A file is there or is not."""
        return work()

    def close(self) -> None:
        """There is nothing to leave."""
