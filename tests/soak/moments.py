"""Moments at which a process kills itself: armed before the command runs, each by its n-th time round."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

SEARCH = ("merge", "score", "file", "rename", "journal", "torn_journal", "ask", "tell")
TRAINING = ("step", "file", "rename", "save")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, nth: int, share: float) -> None:
    """Kill this process at the n-th time that something happens.

    Args:
        moment: One of SEARCH or TRAINING.
        nth: From 1.
        share: How far into it, from 0 to 1, where it takes time or has a length.
    """
    _ARMS[moment](_nth(nth), share)


def _nth(nth: int) -> Callable[[], bool]:
    seen = iter(range(1, nth + 1))
    return lambda: next(seen, None) == nth


def _around(owner: Any, name: str, is_now: Callable[[], bool], share: float, takes_s: float) -> None:
    """Kill somewhere within a call: a while after it began, from another thread."""
    inner = getattr(owner, name)

    def within(*args: Any, **options: Any) -> Any:
        if is_now():
            threading.Timer(share * takes_s, die).start()
        return inner(*args, **options)

    setattr(owner, name, within)


def _before(owner: Any, name: str, is_now: Callable[[], bool]) -> None:
    inner = getattr(owner, name)

    def after_nothing(*args: Any, **options: Any) -> Any:
        if is_now():
            die()
        return inner(*args, **options)

    setattr(owner, name, after_nothing)


def _arm_merge(is_now: Callable[[], bool], share: float) -> None:
    from mergekit_optimer.resident import ResidentMerge

    _around(ResidentMerge, "merge", is_now, share, 0.004)


def _arm_score(is_now: Callable[[], bool], share: float) -> None:
    from mergekit_optimer.evaluate import Scorer

    _around(Scorer, "score", is_now, share, 0.03)


def _arm_file(is_now: Callable[[], bool], share: float) -> None:  # noqa: ARG001
    # A temporary file is written and not yet in its place.
    _before(os, "fsync", is_now)


def _arm_rename(is_now: Callable[[], bool], share: float) -> None:  # noqa: ARG001
    _before(os, "replace", is_now)


def _arm_journal(is_now: Callable[[], bool], share: float) -> None:  # noqa: ARG001
    from optuna.storages.journal import JournalFileBackend

    _before(JournalFileBackend, "append_logs", is_now)


def _arm_torn_journal(is_now: Callable[[], bool], share: float) -> None:
    import json

    from optuna.storages.journal import JournalFileBackend

    inner = JournalFileBackend.append_logs

    def torn(self: Any, logs: list[dict[str, Any]]) -> None:
        if is_now():
            line = "\n".join(json.dumps(one) for one in logs) + "\n"
            with open(self._file_path, "ab") as file:  # noqa: PTH123
                file.write(line.encode()[: int(share * len(line))])
            die()
        inner(self, logs)

    JournalFileBackend.append_logs = torn


def _arm_ask(is_now: Callable[[], bool], share: float) -> None:
    import optuna

    _around(optuna.study.Study, "ask", is_now, share, 0.02)


def _arm_tell(is_now: Callable[[], bool], share: float) -> None:
    import optuna

    _around(optuna.study.Study, "tell", is_now, share, 0.004)


def _arm_step(is_now: Callable[[], bool], share: float) -> None:
    from trl import SFTTrainer

    _around(SFTTrainer, "training_step", is_now, share, 0.02)


def _arm_save(is_now: Callable[[], bool], share: float) -> None:
    from trl import SFTTrainer

    _around(SFTTrainer, "_save_checkpoint", is_now, share, 0.05)


_ARMS: dict[str, Callable[[Callable[[], bool], float], None]] = {
    "merge": _arm_merge,
    "score": _arm_score,
    "file": _arm_file,
    "rename": _arm_rename,
    "journal": _arm_journal,
    "torn_journal": _arm_torn_journal,
    "ask": _arm_ask,
    "tell": _arm_tell,
    "step": _arm_step,
    "save": _arm_save,
}
