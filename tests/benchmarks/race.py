"""Dev samples scored until the same objective is reached, race on against off, on the demo's pool."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from mergekit_optimer.pipeline import Job, MergeAndScorer
from mergekit_optimer.pipeline.stages import dev_tasks
from mergekit_optimer.recipe import Recipe, Rung, load_recipe
from mergekit_optimer.runs import RunDir, open_run
from mergekit_optimer.scores import MetricSamples, TaskScores
from mergekit_optimer.search import InProcess, Measured, Search, SearchResult
from mergekit_optimer.search.records import append_scores

from .figures import Figure
from .models import DATA
from .setting import Setting

# A race compares after 100 samples, so what it saves grows with their number: all that the demo has, dev and held-out,
# serve as dev samples here; and as many as a race has by default.
MOST_SAMPLES = 550
DEFAULT_SAMPLES = 300
N_TRIALS = 100
# Short, so that a study takes minutes; what is counted is samples.
MAX_TOKENS = 32


class Remembered:
    """Merge and score, each weight vector and sample once: seeds share their warm starts."""

    def __init__(self, score: MergeAndScorer) -> None:
        self._score = score
        self._known: dict[tuple[float, ...], dict[str, TaskScores]] = {}

    def __call__(self, weights: Mapping[str, float], trial_dir: Path, start: int, stop: int) -> Measured:
        key = tuple(weights[name] for name in sorted(weights))
        known = self._known.get(key, {})
        n_known = min((len(task.metrics[task.primary].values) for task in known.values()), default=0)
        if n_known < stop:
            more = self._score(weights, trial_dir, n_known, stop).scores
            known = self._known[key] = append_scores(known, more) if known else more
        part = {name: _part(task, start, stop) for name, task in known.items()}
        return Measured(part, 0.0, 0.0)


def measure(setting: Setting) -> list[Figure]:
    """Run the same study with and without a race, for several seeds; fewer samples and assisted TPE for information."""
    folder = setting.fresh("race")
    recipe = load_recipe(_write_recipe(setting.pool_dir, folder, setting.quick))
    job = Job(recipe, open_run(folder / "run", recipe), "cpu")
    score = Remembered(MergeAndScorer(job, dev_tasks(job)))
    most, default = (125, 120) if setting.quick else (MOST_SAMPLES, DEFAULT_SAMPLES)
    few = max(1, setting.n_seeds // 2)
    rows = ("none", most, setting.n_seeds), ("none", default, setting.n_seeds), ("quadratic", default, few)
    return [
        _compare(_with(recipe, assist, n_samples), job, score, n_seeds, folder) for assist, n_samples, n_seeds in rows
    ]


def _compare(recipe: Recipe, job: Job, score: Remembered, n_seeds: int, folder: Path) -> Figure:
    section, n_samples = recipe.search, recipe.search.rungs[0].n_samples
    ratios, whole, ends, stopped = [], [], [], []
    for seed in range(n_seeds):
        off, on = (
            _study(recipe, job, score, seed, race, folder / f"{n_samples}-{section.sampler.assist}-{seed}-{race}")
            for race in (False, True)
        )
        # The best that both reach.
        target = min(off.winner.value, on.winner.value)
        ratios.append(_samples_until(off, target) / _samples_until(on, target))
        whole.append(_samples_until(off, math.inf) / _samples_until(on, math.inf))
        ends.append(on.winner.value - off.winner.value)
        stopped.append(sum(record.stopped is not None for record in on.trials))
    is_asked = section.sampler.assist == "none" and n_samples != DEFAULT_SAMPLES
    return Figure(
        f"dev samples until the same objective, race off / on (assist: {section.sampler.assist}; {n_samples} a task)",
        median(ratios),
        at_least=2 if is_asked else None,
        detail=f"demo pool, median of {len(ratios)} seeds ({_listed(ratios)}), "
        f"{section.n_trials} trials, of which the race stopped {', '.join(map(str, stopped))}; all trials: "
        f"{median(whole):.2f} times ({_listed(whole)}); objective at the end, on - off: "
        f"{', '.join(f'{end:+.4f}' for end in ends)}",
    )


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _with(recipe: Recipe, assist: str, n_samples: int) -> Recipe:
    sampler = recipe.search.sampler.model_copy(update={"assist": assist})
    update = {"sampler": sampler, "rungs": [Rung(n_samples=n_samples)]}
    return recipe.model_copy(update={"search": recipe.search.model_copy(update=update)})


def _study(recipe: Recipe, job: Job, score: Remembered, seed: int, race: bool, folder: Path) -> SearchResult:
    search = recipe.search.model_copy(update={"race": race})
    study = recipe.model_copy(update={"seed": seed, "search": search})
    folder.mkdir()
    return Search(study, RunDir(folder), job.pool.names, "race", InProcess(score)).run()


def _samples_until(result: SearchResult, target: float) -> int:
    """Samples of each task scored until a trial, whole and kept, has reached the target; all where none does."""
    n_scored = 0
    for record in result.trials:
        n_scored += record.n_samples if record.same_as is None else 0
        if record.stopped is None and record.is_kept and record.value >= target:
            break
    return n_scored


def _part(task: TaskScores, start: int, stop: int) -> TaskScores:
    metrics = {
        name: MetricSamples(s.values[start:stop], s.weights[start:stop], s.higher_is_better, s.floor)
        for name, s in task.metrics.items()
    }
    return TaskScores(metrics, task.primary)


def _write_recipe(pool_dir: Path, folder: Path, quick: bool) -> Path:
    """The demo's recipe over its finished pool, its held-out texts added to the dev texts."""
    demo: dict[str, Any] = yaml.safe_load((DATA.parent / "recipe.yaml").read_text(encoding="utf-8"))
    vectors = {path.name: {"delta": {"path": str(path.resolve())}} for path in sorted(pool_dir.glob("vectors/*"))}
    for task in demo["tasks"]:
        parts = [lzma.decompress((DATA / f"{task}.{split}.jsonl.xz").read_bytes()) for split in ("held_out", "dev")]
        (folder / f"{task}.jsonl").write_bytes(b"".join(parts))
    # A recipe needs a held-out set, and all of the demo's is dev set here.
    held_out = folder / "held_out.jsonl"
    held_out.write_text(json.dumps({"text": "never scored"}) + "\n", encoding="utf-8")
    text = {"kind": "text", "max_tokens": MAX_TOKENS}
    recipe = {
        "name": "race",
        "base_model": {"path": str(DATA / "base")},
        "vectors": vectors,
        "search": demo["search"] | {"n_trials": 12 if quick else N_TRIALS, "rungs": [{"n_samples": DEFAULT_SAMPLES}]},
        "tasks": {name: text | {"path": str((folder / f"{name}.jsonl").resolve())} for name in demo["tasks"]},
        "held_out": {"none": text | {"path": str(held_out.resolve())}},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
