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
