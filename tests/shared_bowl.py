"""A study that several drivers share, without a model: each in a process of its own, which starts in a moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bowl import VECTORS, Bowl, recipe

from mergekit_optimer.errors import OptimerError
from mergekit_optimer.files import read_json, write_json
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search import Database, InProcess, Measured, Search, SearchResult

PATIENCE_S = 60.0
# What is imported once, in a process from which the drivers are forked.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["optuna", "optuna.storages._rdb.models", "scipy.stats", "mergekit_optimer.search"])


def database(url: str, study: str = "study", waits_s: Sequence[float] = (0.05,) * 400) -> Database:
    """A study's place whose dead drivers are noticed in seconds."""
    return Database(url, study, heartbeat_s=1, grace_s=2, waits_s=waits_s)


def make(run_dir: Path, bowl: Bowl, place: Database, identity: str = "identity", **options: Any) -> Search:
    """A driver in this process; options are the recipe's search section, and Search's ``parts`` and ``watch``."""
    own = {name: options.pop(name, None) for name in ("parts", "watch")}
    return Search(recipe(**options), RunDir(run_dir), VECTORS, identity, InProcess(bowl), place=place, **own)


def wait_until(is_so: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


@dataclass(frozen=True)
class Driver:
    """A driver in a process of its own.

    Attributes:
        folder: Shared by a test's drivers: what each scored, how each ended, and their run folders.
        dies: Moment at which it kills itself.
        meets: Whether its first score waits until another driver scores too.
        lasts_s: Seconds its first score takes at least.
        jumps: Whether its clock jumps by an hour, to and fro, whenever it is read.
    """

    name: str
    url: str
    folder: Path
    dies: str = ""
    meets: bool = False
    lasts_s: float = 0.0
    jumps: bool = False
    study: str = "study"
    search: dict[str, Any] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.folder / self.name

    def start(self) -> Any:
        process = _CONTEXT.Process(target=_drive, args=(self,))
        process.start()
        return process

    @property
    def outcome(self) -> dict[str, Any]:
        """How it ended."""
        data: dict[str, Any] = read_json(self.folder / f"{self.name}.json")
        return data


def run(*drivers: Driver) -> list[int | None]:
    """Run drivers side by side to their ends; returns their exit codes."""
    with ExitStack() as stack:
        processes = []
        for driver in drivers:
            processes.append(driver.start())
            stack.callback(processes[-1].kill)
        for process in processes:
            process.join(PATIENCE_S)
        # None where one has not ended.
        return [process.exitcode for process in processes]


def asked(folder: Path) -> list[dict[str, Any]]:
    """Everything that was scored, in order: driver, weights, start, stop."""
    path = folder / "asked"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def warm_starts(result: SearchResult) -> list[str]:
    return sorted(record.source for record in result.trials if record.source.startswith("warm_start/"))


def _in_short(result: SearchResult) -> dict[str, Any]:
    winner = {"winner": result.winner.number, "value": result.winner.value, "n_trials": len(result.trials)}
    return winner | {"n_failed": result.n_failed, "warm_starts": warm_starts(result)}


class _WatchedBowl(Bowl):
    """Writes down what it is asked, and dies or waits where its driver is to."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def __call__(self, weights: Mapping[str, float], trial_dir: Path, start: int, stop: int) -> Measured:
        driver, began = self._driver, time.monotonic()
        line = {"driver": driver.name, "weights": dict(weights), "start": start, "stop": stop}
        with (driver.folder / "asked").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if driver.dies == ("climbing" if start else "scoring"):
            _die()
        if driver.meets and not self.asked:
            wait_until(lambda: len({one["driver"] for one in asked(driver.folder)}) > 1)
        if not self.asked:
            wait_until(lambda: time.monotonic() >= began + driver.lasts_s)
        return super().__call__(weights, trial_dir, start, stop)


class _Doomed(Database):
    """Dies when a trial has been asked for, or has been heard of and no more."""

    dies = ""

    def begin(self, trial: Any) -> None:
        if self.dies == "asked":
            _die()
        if self.dies == "heard":
            self._storage.record_heartbeat(trial._trial_id)
            _die()
        super().begin(trial)


def _die(*_: object) -> None:
    os.kill(os.getpid(), 9)


def _drive(driver: Driver) -> None:
    if driver.jumps:
        _let_the_clock_jump()
    place = _Doomed(driver.url, driver.study, heartbeat_s=1, grace_s=2, waits_s=(0.05,) * 400)
    place.dies = driver.dies
    try:
        search = make(driver.run_dir, _WatchedBowl(driver), place, **driver.search)
        if driver.dies == "telling":
            search._tell = _die  # type: ignore[method-assign, assignment]
        if driver.dies == "sharing":
            search._ledger.share_longer = _die  # type: ignore[method-assign, assignment]
        write_json(driver.folder / f"{driver.name}.json", _in_short(search.run()))
    except OptimerError as error:
        write_json(driver.folder / f"{driver.name}.json", {"error": str(error)})
    finally:
        place.close()


def _let_the_clock_jump() -> None:
    """Put every clock of this process that shows a date an hour ahead or back, in turns."""
    import datetime

    real, true_time, hours = datetime.datetime, time.time, [0]

    def jump() -> int:
        hours[0] += 1
        return 3600 if hours[0] % 2 else -3600

    class Jumping(real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real.now(tz) + datetime.timedelta(seconds=jump())

    time.time = lambda: true_time() + jump()
    for module in list(sys.modules.values()):
        if getattr(module, "datetime", None) is real:
            module.datetime = Jumping  # type: ignore[attr-defined]
