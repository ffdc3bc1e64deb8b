"""Trials until 95 % of the best dev gain known, by sampler, on the demo's vector pool. Real merges, real scores.

    python tests/benchmarks/samplers.py --pool runs/demo --seeds 10 --out samplers.json

Each method runs the real study (``search.Search``) for each seed until it has reached the mark or spent its trials.
The best known is the best that any study of all methods found, the reference studies of 200 trials among them. What is
scored is kept beside the output, so that an interrupted or repeated run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mergekit_optimer.pipeline import Job, MergeAndScorer
from mergekit_optimer.pipeline.stages import dev_tasks
from mergekit_optimer.recipe import Recipe, load_recipe
from mergekit_optimer.resources import recipes_dir
from mergekit_optimer.runs import RunDir, open_run
from mergekit_optimer.scores import TaskScores
from mergekit_optimer.search import InProcess, Measured, Search, judge

# Short texts, so that a trial takes a fraction of a second; what is counted is trials.
N_SAMPLES, MAX_TOKENS = 25, 48
N_TRIALS, N_REFERENCE = 100, 200
MARK = 0.95
# Seeds of the studies that only look for the best: none of those measured.
REFERENCE_SEEDS = (1000, 1001)

ASSISTED: dict[str, Any] = {"sampler": {"name": "tpe", "assist": "quadratic"}}
METHODS: dict[str, dict[str, Any]] = {
    "tpe, independent, no warm starts (the paper's)": {
        "sampler": {"name": "tpe", "assist": "none", "multivariate": False},
        "warm_starts": [],
    },
    "tpe": {"sampler": {"name": "tpe", "assist": "none"}},
    "tpe + quadratic": ASSISTED,
    "gradient, tpe + quadratic": ASSISTED | {"warm_starts": ["zero", "uniform_average", "gradient"]},
    "gp": {"sampler": {"name": "gp"}},
    "cmaes": {"sampler": {"name": "cmaes"}},
    "qmc": {"sampler": {"name": "qmc"}},
    "random": {"sampler": {"name": "random"}},
}
REFERENCES = ("tpe", "tpe + quadratic")


class Reached(BaseException):
    """The study has what it was run for. No Exception: a study must not take it for a trial that failed."""


class Pool:
    """The demo's pool under one objective; every weight vector is merged and scored once, whoever asks."""

    def __init__(self, pool_dir: Path, work_dir: Path, cache_path: Path) -> None:
        work_dir.mkdir(parents=True)
        self.recipe = load_recipe(_write_recipe(pool_dir, work_dir))
        job = Job(self.recipe, open_run(work_dir / "run", self.recipe), "cpu")
        self.names: list[str] = sorted(job.pool.names)
        self._trial = MergeAndScorer(job, dev_tasks(job))
        self._work_dir, self._cache_path = work_dir, cache_path
        files = json.dumps([job.base_fingerprint, job.pool_files, N_SAMPLES, MAX_TOKENS], sort_keys=True)
        self._identity = hashlib.sha256(files.encode()).hexdigest()[:16]
        cached = cache_path.read_text(encoding="utf-8") if cache_path.exists() else ""
        # A run that was killed may have left half a line, which nothing may be appended to.
        whole = cached[: cached.rfind("\n") + 1]
        if whole != cached:
            cache_path.write_text(whole, encoding="utf-8")
        self._known: dict[str, Any] = {(one := json.loads(line))["key"]: one["found"] for line in whole.splitlines()}

    def scores(self, weights: Mapping[str, float]) -> dict[str, TaskScores]:
        """Scores of the first N_SAMPLES of every task."""
        found = self._remember(f"score {self._key(weights)}", lambda: self._score(weights))
        return {name: TaskScores.from_json(task) for name, task in found.items()}

    def value(self, weights: Mapping[str, float]) -> float:
        return judge(self.recipe.search.objective, self.scores(weights)).value

    def slopes(self, weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:
        """Value and slopes of the objective on the first n samples of every task."""
        key = f"slopes {n_samples} {self._key(weights)}"
        value, slope = self._remember(key, lambda: self._trial.slopes(weights, n_samples))
        return value, slope

    def forwards_per_slope(self) -> float:
        """What value and slopes cost, in trials: the least processor time of several, taken in turns."""
        level = dict.fromkeys(self.names, 0.25)
        turns = [
            (_seconds(lambda: self._score(level)), _seconds(lambda: self._trial.slopes(level, N_SAMPLES)))
            for _ in range(6)
        ]
        forward, both = (min(times) for times in zip(*turns, strict=True))
        return both / forward

    def _score(self, weights: Mapping[str, float]) -> dict[str, Any]:
        measured = self._trial(weights, self._work_dir / "trial", 0, N_SAMPLES)
        return {name: task.to_json() for name, task in measured.scores.items()}

    def _key(self, weights: Mapping[str, float]) -> str:
        return json.dumps([weights[name] for name in self.names])

    def _remember(self, key: str, find: Callable[[], Any]) -> Any:
        key = f"{self._identity} {key}"
        if key not in self._known:
            self._known[key] = json.loads(json.dumps(find()))
            with self._cache_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "found": self._known[key]}) + "\n")
        return self._known[key]


@dataclass
class Study:
    """One study of one method, seen from the outside: what it asked for, in order.

    Attributes:
        values: Objective of each trial, in order.
        costs: What had been spent when it was scored, in trials without a gradient.
    """

    pool: Pool
    target: float
    forwards_per_slope: float
    values: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    _spent: float = 0.0

    def run(self, recipe: Recipe, folder: Path) -> None:
        """Run the study until it reaches the target or its end."""
        with suppress(Reached):
            Search(recipe, RunDir(folder), self.pool.names, "samplers", InProcess(self.score), slopes=self.slopes).run()

    def score(self, weights: Mapping[str, float], _trial_dir: Path, _start: int, _stop: int) -> Measured:
        if self.values and max(self.values) >= self.target:
            raise Reached
        self._spent += 1
        self.values.append(self.pool.value(weights))
        self.costs.append(self._spent)
        return Measured(self.pool.scores(weights), 0.0, 0.0)

    def slopes(self, weights: Mapping[str, float], n_samples: int) -> tuple[float, dict[str, float]]:
        self._spent += self.forwards_per_slope * n_samples / N_SAMPLES
        return self.pool.slopes(weights, n_samples)


def measure(pool: Pool, methods: Sequence[str], n_seeds: int, work_dir: Path) -> dict[str, Any]:
    """Run the methods for each seed.

    Returns:
        "methods": by name, what each seed took (None: never reached) with the quartiles; "best": the best gain known.
    """
    forwards = pool.forwards_per_slope()
    base = pool.value(dict.fromkeys(pool.names, 0.0))

    def study(method: str, seed: int, n_trials: int, target: float) -> Study:
        one = Study(pool, target, forwards)
        with tempfile.TemporaryDirectory(dir=work_dir) as folder:
            one.run(_varied(pool.recipe, METHODS[method], seed, n_trials), Path(folder))
        return one

    references = {
        f"{method}/{seed}": max(study(method, seed, N_REFERENCE, np.inf).values) - base
        for method in REFERENCES
        for seed in REFERENCE_SEEDS
    }
    best = max(references.values())
    target = base + MARK * best
    print(f"best gain known: {best:.5f} ({', '.join(f'{k} {v:.5f}' for k, v in references.items())})", file=sys.stderr)
    found: dict[str, Any] = {}
    for method in methods:
        trials, costs = [], []
        for seed in range(n_seeds):
            one = study(method, seed, N_TRIALS, target)
            first = next((i for i, value in enumerate(one.values) if value >= target), None)
            trials.append(None if first is None else first + 1)
            costs.append(None if first is None else round(one.costs[first], 2))
        found[method] = {
            "trials": trials,
            "costs": costs,
            "in_trials": _quartiles(trials),
            "in_costs": _quartiles(costs),
        }
        print(_line(method, found[method]), flush=True)
    return {
        "base": base, "best_gain": best, "references": references, "mark": MARK, "n_samples": N_SAMPLES,
        "max_tokens": MAX_TOKENS, "n_trials": N_TRIALS, "forwards_per_slope": forwards, "methods": found,
    }  # fmt: skip


def _quartiles(counts: Sequence[float | None]) -> list[float | None]:
    """Lower quartile, median and upper quartile; None where that many studies never got there."""
    ordered = sorted(np.inf if count is None else count for count in counts)
    found = [float(np.quantile(ordered, q, method="higher")) for q in (0.25, 0.5, 0.75)]
    return [value if np.isfinite(value) else None for value in found]


def _line(method: str, found: Mapping[str, Any]) -> str:
    def say(quartiles: Sequence[float | None]) -> str:
        low, middle, high = (f"> {N_TRIALS}" if one is None else f"{one:g}" for one in quartiles)
        return f"{middle} [{low}, {high}]"

    reached = sum(count is not None for count in found["trials"])
    return (
        f"{method:48s} trials {say(found['in_trials']):22s} cost {say(found['in_costs']):26s} "
        f"reached by {reached}/{len(found['trials'])}"
    )


def _varied(recipe: Recipe, changes: Mapping[str, Any], seed: int, n_trials: int) -> Recipe:
    section = recipe.search.model_dump(mode="json", exclude_unset=True) | {"n_trials": n_trials} | dict(changes)
    search = type(recipe.search).model_validate(section)
    return recipe.model_copy(update={"seed": seed, "search": search})


def _write_recipe(pool_dir: Path, folder: Path) -> Path:
    """The demo's recipe over its finished pool, on short texts."""
    demo_dir = recipes_dir() / "demo"
    recipe = yaml.safe_load((demo_dir / "recipe.yaml").read_text(encoding="utf-8"))
    vectors = {path.name: {"delta": {"path": str(path.resolve())}} for path in sorted(pool_dir.glob("vectors/*"))}
    if not vectors:
        raise SystemExit(f"{pool_dir} holds no vectors: name a finished run of the demo, as `make demo` leaves it.")
    recipe |= {"base_model": {"path": str(demo_dir / "data" / "base")}, "vectors": vectors}
    del recipe["train"], recipe["publish"]
    recipe["search"]["rungs"] = [{"n_samples": N_SAMPLES}]
    for part in ("tasks", "held_out"):
        for task in recipe[part].values():
            task |= {"path": str(demo_dir / task["path"]), "max_tokens": MAX_TOKENS}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def _seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="Trials until 95 % of the best dev gain known, by sampler.")
    parser.add_argument("--pool", type=Path, default=Path("runs/demo"), help="a finished run of the demo recipe")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--method", action="append", choices=list(METHODS), help="this method (may be repeated)")
    parser.add_argument("--out", type=Path, default=Path("samplers.json"), help="file to write")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("mergekit_optimer").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="samplers-") as temporary:
        work_dir = Path(temporary)
        pool = Pool(options.pool.resolve(), work_dir / "pool", options.out.with_suffix(".cache.jsonl"))
        found = measure(pool, options.method or list(METHODS), options.seeds, work_dir)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
