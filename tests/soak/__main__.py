"""``python -m tests.soak``: 50 kills at chosen moments of studies and trainings, and what must hold after each.

The commands are the real ones, over a tiny model. What is slow about them, their imports, is done once; each command is
a fork of that. Prints a line a kill and ends with status 1 where anything is lost.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.soak import moments, whole

N_TRIALS = 40
PATIENCE_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        return Soak(Path(folder), random.Random(arguments.seed)).run(arguments.kills)


class Soak:
    """One folder with a recipe, a run that is killed again and again, and one that is not."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._folder, self._rng = folder, rng
        self._wrong: list[str] = []
        self._kills: Counter[str] = Counter()
        self._shared_memory = whole.shared_memory()

    def run(self, n_kills: int) -> int:
        started = time.monotonic()
        self._recipe = _write_recipe(self._folder)
        _import_everything()
        n_training, n_workers = n_kills // 5, n_kills // 5
        self._training(n_training)
        self._study("alone", n_kills - n_training - n_workers, n_workers=1)
        self._study("two", n_workers, n_workers=2)
        left = whole.shared_memory() - self._shared_memory
        self._wrong += [f"shared memory {name} is left" for name in sorted(left)]
        for problem in self._wrong:
            print(f"LOST: {problem}")
        n = sum(self._kills.values())
        by_moment = ", ".join(f"{moment} {count}" for moment, count in sorted(self._kills.items()))
        print(f"{n} kills ({by_moment}), {len(self._wrong)} problems, {time.monotonic() - started:.0f} s")
        return 1 if self._wrong or n < n_kills else 0

    def _training(self, n_kills: int) -> None:
        """Kill trainings; the checkpoints must be those of trainings that were not."""
        run = self._folder / "trained"
        words = ["train", str(self._recipe), "--run-dir", str(run)]
        while self._kills.total() < n_kills:
            moment = self._rng.choice(moments.TRAINING)
            nth = self._rng.randint(1, 3 if moment == "save" else 12)
            if not self._kill(run, words, moment, nth):
                # It was through before the moment came.
                shutil.rmtree(run)
        self._finish(run, words)
        self._wrong += whole.damage(run, is_finished=True)
        calm = self._folder / "calm"
        self._finish(calm, ["train", str(self._recipe), "--run-dir", str(calm)])
        for name in ("ja", "math"):
            one, other = (path / f"checkpoints/{name}/model.safetensors" for path in (run, calm))
            if one.read_bytes() != other.read_bytes():
                self._wrong.append(f"checkpoint {name} is not that of a training that was left alone")
        self._finish(calm, ["vectors", "extract", str(self._recipe), "--run-dir", str(calm)])

    def _study(self, name: str, n_kills: int, n_workers: int) -> None:
        """Kill studies, driver or worker; alone, the trials must be those of a study that was left alone."""
        run, done = self._folder / name, self._kills.total()
        words = ["search", str(self._recipe), "--run-dir", str(run), "--workers", str(n_workers), "--device", "cpu"]
        known: dict[int, Any] = {}
        round_number = 0
        while self._kills.total() < done + n_kills:
            if not run.exists():
                _copy_pool(self._folder / "calm", run)
                known, round_number = {}, round_number + 1
            if n_workers == 1:
                moment = self._rng.choice(moments.SEARCH)
                is_through = not self._kill(run, words, moment, self._rng.randint(1, 60 if "journal" in moment else 12))
            else:
                is_through = not self._kill_later(run, words, self._rng.choice(["driver", "worker"]))
            known = self._compare(run, known)
            if is_through:
                self._compare_with_calm(run, n_workers)
                shutil.rmtree(run)
        if run.exists():
            self._finish(run, words)
            self._compare(run, known)
            self._compare_with_calm(run, n_workers)

    def _compare(self, run: Path, known: dict[int, Any]) -> dict[int, Any]:
        now = whole.reported(run)
        self._wrong += [f"{run.name}: trial {n} was reported and is lost" for n in known if now.get(n) != known[n]]
        return now

    def _compare_with_calm(self, run: Path, n_workers: int) -> None:
        self._wrong += whole.damage(run, is_finished=True)
        mine = [values for values, _ in whole.reported(run).values()]
        if len(mine) != N_TRIALS:
            self._wrong.append(f"{run.name} has {len(mine)} of {N_TRIALS} trials")
        if n_workers > 1:
            return
        calm = self._folder / "calm-study"
        if not calm.exists():
            _copy_pool(self._folder / "calm", calm)
            self._finish(calm, ["search", str(self._recipe), "--run-dir", str(calm), "--device", "cpu"])
        if mine != [values for values, _ in whole.reported(calm).values()]:
            self._wrong.append(f"{run.name}: the trials are not those of a study that was left alone")

    def _kill(self, run: Path, words: list[str], moment: str, nth: int) -> bool:
        """Run a command that kills itself; False where it ended before that."""
        child = self._start(words, (moment, nth, self._rng.random()))
        status = self._wait(child)
        return self._was_killed(run, moment, child, status)

    def _kill_later(self, run: Path, words: list[str], victim: str) -> bool:
        """Kill a driver with workers, or one of them, once trials come in; False where it ended before that."""
        child = self._start(words, None)
        n_known, end = len(whole.reported(run)), time.monotonic() + PATIENCE_S
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if len(whole.reported(run)) > n_known or time.monotonic() > end:
                break
            time.sleep(0.01)
        time.sleep(self._rng.random() * 0.3)
        workers = [pid for pid in whole.processes_of_session(child) if pid != child and _is_worker(pid)]
        target = child if victim == "driver" else self._rng.choice(workers) if workers else None
        if target is not None:
            os.kill(target, signal.SIGKILL)
        status = self._wait(child)
        if victim == "driver":
            return self._was_killed(run, victim, child, status)
        if status != 0:
            self._wrong.append(f"{run.name}: a study whose worker was killed ended with status {status}")
        if target is not None:
            self._kills[victim] += 1
            print(f"kill {self._kills.total()}: {run.name}, {victim}; the study went on", flush=True)
        return False

    def _was_killed(self, run: Path, moment: str, child: int, status: int) -> bool:
        self._look_for_processes(child)
        self._wrong += whole.damage(run, is_finished=False)
        if status == -signal.SIGKILL:
            self._kills[moment] += 1
            n_done = len(whole.reported(run))
            print(f"kill {self._kills.total()}: {run.name}, {moment}; {n_done} trials reported", flush=True)
            return True
        if status != 0:
            self._wrong.append(f"{run.name}: status {status} instead of going on")
        return False

    def _look_for_processes(self, session: int) -> None:
        end = time.monotonic() + 10.0
        while left := whole.processes_of_session(session):
            if time.monotonic() > end:
                self._wrong.append(f"{len(left)} processes are left of a killed command")
                return
            time.sleep(0.05)

    def _finish(self, run: Path, words: list[str]) -> None:
        status = self._wait(self._start(words, None))
        if status != 0:
            self._wrong.append(
                f"{run.name}: `{words[0]}` ended with status {status}: see {self._log.read_text()[-500:]}"
            )

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _start(self, words: list[str], armed: tuple[str, int, float] | None) -> int:
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        # In a session of its own, so that whatever it leaves behind is found.
        os.setsid()
        out = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        logging.getLogger().handlers.clear()
        try:
            if armed is not None:
                moments.arm(*armed)
            sys.argv = ["mergekit-optimer", *words]
            from mergekit_optimer.cli import main as command

            command()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 99
        sys.stdout.flush()
        os._exit(status)

    def _wait(self, child: int) -> int:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            pid, code = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(code)
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self._wrong.append("a command hung and was ended")
        return 0


def _is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def _write_recipe(folder: Path) -> Path:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import yaml
    from conftest import make_model, write_micro_recipe

    path = write_micro_recipe(folder / "study", make_model(folder / "base"))
    recipe = yaml.safe_load(path.read_text())
    recipe["train"]["defaults"] |= {"max_steps": 24, "save_steps": 4}
    del recipe["train"]["mixture"]
    recipe["search"] |= {"n_trials": N_TRIALS, "warm_starts": ["zero", "uniform_average", "sum", "singles"]}
    path.write_text(yaml.safe_dump(recipe))
    return path


def _copy_pool(trained: Path, run: Path) -> None:
    """A run with checkpoints and vectors and no study."""
    shutil.copytree(trained, run)


def _import_everything() -> None:
    """Load what every command needs, and run nothing: threads would not live through a fork."""
    import mergekit  # noqa: F401
    import optuna  # noqa: F401
    import torch
    import trl  # noqa: F401
    from trl import SFTTrainer  # noqa: F401

    import mergekit_optimer.cli
    import mergekit_optimer.pipeline
    from mergekit_optimer.evaluate.lighteval_compat import contained

    torch.set_num_threads(1)
    with contained():
        import mergekit_optimer.evaluate.lighteval_tasks
        import mergekit_optimer.evaluate.live_model  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
