"""What a study over workers costs and gains: throughput, the driver's share, storage, the second worker's memory."""

from __future__ import annotations

import math
import os
import random
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from mergekit_optimer.pipeline import Job, Means
from mergekit_optimer.pipeline.driving import opened_workers
from mergekit_optimer.pipeline.stages import dev_tasks
from mergekit_optimer.recipe import Recipe, load_recipe
from mergekit_optimer.runs import RunDir, open_run
from mergekit_optimer.scores import MetricSamples, TaskScores
from mergekit_optimer.search import Measured, Request, Search, TrialRecord

from .figures import Figure
from .models import make_pool, make_recipe
from .setting import Setting

GIB = 1 << 30
VECTORS = ["a", "b", "c", "d"]


def measure_workers(setting: Setting) -> list[Figure]:
    """The same requests scored by one worker and by two, and by this process on all cores."""
    pool = make_pool(setting.work_dir, setting.small, "float32", 4)
    folder = setting.fresh("workers")
    recipe = load_recipe(make_recipe(pool, folder, setting.n_samples, 1))
    job = Job(recipe, open_run(folder / "run", recipe), "cpu")
    tasks = dev_tasks(job)
    n = 4 if setting.quick else 8
    with _threads(1), opened_workers(job, tasks, Means()) as alone:
        one_s, _ = _trial_s(alone, job, n)
    with opened_workers(job, tasks, Means(n_workers=2)) as both:
        two_s, memory = _trial_s(both, job, n)
    with _threads(len(os.sched_getaffinity(0))), opened_workers(job, tasks, Means()) as whole:
        all_s, _ = _trial_s(whole, job, n)
    model_bytes = 4 * pool.n_parameters
    own, mapped = memory
    what = f"{setting.small} float32, K=4, 4 tasks x {setting.n_samples} samples"
    detail = f"{one_s:.2f} s a trial by one process on one core, {two_s:.2f} s by two workers, {all_s:.2f} s by one "
    detail += "process on both cores"
    return [
        Figure(f"2 workers on 2 cores, {what}: times the trials of one on one core", one_s / two_s, 1.7, detail=detail),
        Figure(
            f"2 workers on 2 cores, {what}: times the trials of one process on both cores", all_s / two_s, detail=detail
        ),
        Figure(
            f"memory of the second worker, {setting.small} float32, K=4: models of its own beside the shared pool",
            own / model_bytes,
            detail=f"{own / GIB:.2f} GiB of its own, of which a model is {model_bytes / GIB:.2f} and Python with its "
            f"libraries some 0.4; {mapped / GIB:.2f} GiB shared with the first (base and vectors, mapped)",
        ),
    ]


@contextmanager
def _threads(n: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trial_s(drive: Any, job: Job, n: int) -> tuple[float, tuple[int, int]]:
    """Seconds a trial, all places busy, and what the last worker holds: bytes of its own, bytes shared."""
    drive.load()
    numbers = iter(range(1000))

    def ask() -> None:
        number = next(numbers)
        weights = dict.fromkeys(job.pool.names, 0.3 + 0.01 * number)
        drive.workers.submit(
            number, Request(weights, job.run.trial_dir(number), 0, job.recipe.search.rungs[0].n_samples)
        )

    # The first of each plans its batches.
    for _ in range(drive.workers.n_places):
        ask()
    for _ in range(drive.workers.n_places):
        _done(drive.workers.wait())
    started = time.perf_counter()
    for _ in range(drive.workers.n_places):
        ask()
    for done in range(n):
        _done(drive.workers.wait())
        if done + drive.workers.n_places < n:
            ask()
    return (time.perf_counter() - started) / n, _memory_of_last_child()


def _done(ended: Any) -> None:
    if isinstance(ended[1], BaseException):
        raise ended[1]


def _memory_of_last_child() -> tuple[int, int]:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    if not workers:
        return 0, 0
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{workers[-1]}/smaps_rollup").read_text().splitlines()[1:]:
        name, number, *_ = line.split()
        fields[name.rstrip(":")] = int(number) * 1024
    return fields["Private_Clean"] + fields["Private_Dirty"], fields["Shared_Clean"] + fields["Shared_Dirty"]


class _Simulated:
    """Workers that answer at once, in any order: what is left is the driver's own time."""

    def __init__(self, n_places: int) -> None:
        self.n_places = n_places
        self._asked: list[tuple[int, Request]] = []
        self._rng = random.Random(0)

    def submit(self, ticket: int, request: Request) -> None:
        self._asked.append((ticket, request))

    def wait(self) -> tuple[int, Measured | BaseException] | None:
        ticket, request = self._asked.pop(self._rng.randrange(len(self._asked)))
        return ticket, Measured(_bowl(request.weights), 0.1, 0.2)


def _bowl(weights: Mapping[str, float]) -> dict[str, TaskScores]:
    away = math.fsum((weight - 0.2 * number) ** 2 for number, weight in enumerate(weights.values()))
    values = tuple(1.0 + away + 0.1 * math.sin(sample) for sample in range(100))
    samples = MetricSamples(values, (1.0,) * 100, higher_is_better=False, floor=8.0)
    return {f"t{number}": TaskScores({"bits_per_byte": samples}, "bits_per_byte") for number in range(4)}


def measure_driver(setting: Setting) -> list[Figure]:
    """Ask, tell and log of a study with 1, 1,000 and 10,000 trials behind it, for 1 and for 256 workers."""
    folder = setting.fresh("driver")
    figures = []
    for n_behind in (0, 100) if setting.quick else (0, 1000, 10_000):
        for n_workers in (1, 256):
            run = RunDir(folder / f"{n_behind}-{n_workers}")
            _fill(run, n_behind)
            # A round of all workers, and then some trials to measure.
            n_measured = 10 if setting.quick else 60
            ends: list[float] = []
            search = Search(
                _recipe(n_behind + n_workers + n_measured), run, VECTORS, "driver", _Simulated(n_workers),
                watch=lambda _, ends=ends: ends.append(time.perf_counter()),
            )  # fmt: skip
            search.run()
            took = [later - earlier for earlier, later in pairwise(ends)][:n_measured]
            figures.append(
                Figure(
                    f"driver, {n_behind:,} trials behind, {n_workers} workers: ms a trial (ask, tell, log)",
                    1000 * statistics.median(took),
                    at_most=50 if n_behind == 1000 else None,
                    detail=f"median of {len(took)}, longest {1000 * max(took):.0f} ms; default sampler, K=4",
                )
            )
            if n_behind in (100, 1000) and n_workers == 1:
                size = run.journal_path.stat().st_size / len(search.records())
                scores = (run.trial_dir(0) / "scores.json").stat().st_size
                figures.append(
                    Figure(
                        "storage: bytes of journal a trial",
                        size,
                        detail=f"and scores.json {scores:,} bytes with 4 tasks x 100 samples of one metric each",
                    )
                )
    return figures


def _recipe(n_trials: int) -> Recipe:
    task = {"kind": "text", "path": "dev.jsonl"}
    return Recipe.model_validate(
        {
            "name": "driver",
            "base_model": {"path": "base"},
            "vectors": {name: {"checkpoint": {"path": name}} for name in VECTORS},
            "search": {
                "n_trials": n_trials,
                "objective": {"mean": ["t0", "t1", "t2", "t3"]},
                "rungs": [{"n_samples": 100}],
            },
            "tasks": {f"t{number}": task for number in range(4)},
            "held_out": {"h": {"kind": "text", "path": "held_out.jsonl"}},
        }
    )


def _fill(run: RunDir, n_trials: int) -> None:
    """Enter trials as a study of random weights would have left them."""
    import optuna

    search = Search(_recipe(max(1, n_trials)), run, VECTORS, "driver", _Simulated(1))
    rng = random.Random(1)
    space = {name: optuna.distributions.FloatDistribution(-0.5, 1.25) for name in VECTORS}
    entered = []
    starts = ["zero", "uniform_average", "half", *(f"single/{name}" for name in VECTORS)]
    for number in range(n_trials):
        weights = {name: rng.uniform(-0.5, 1.25) for name in VECTORS}
        source = f"warm_start/{starts[number]}" if number < len(starts) else ("sampler", "surrogate")[number % 4 != 0]
        scores = _bowl(weights)
        judgement = search._ledger.judge(scores, 100, weights)
        search._ledger.write(
            TrialRecord(number, weights, source, 100, {100: judgement.value}, {100: True}, [], 0.1, 0.2, scores)
        )
        entered.append(
            optuna.trial.create_trial(
                value=judgement.value,
                params=weights,
                distributions=space,
                user_attrs={"is_kept": True, "collapsed": [], "source": source},
            )
        )
    search._study.add_trials(entered)
