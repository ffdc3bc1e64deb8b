"""A search with this package against one `mergekit-yaml` and one `lighteval accelerate` process for each trial."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from mergekit_optimer.merge import Ingredient, portable_yaml

from .figures import Figure
from .models import Pool, make_pool, make_recipe
from .setting import Setting

BIN = Path(sys.executable).parent
SCRIPT = Path(__file__).with_name("naive_lighteval.py")
TASKS = Path(__file__).with_name("naive_tasks.py")
# Of 4, 8, 16, 32, 64 and 128 the fastest or within 3 % of it here (lighteval runs batch_size / 4 questions at once).
BATCH_SIZE = 32
TOLERANCE = 1e-5


def measure(setting: Setting) -> list[Figure]:
    """The search and the naive loop over its weights; then, with more samples, a few trials of each.

    The more samples a trial has, the more both spend on the same forward passes, and the less start-up counts.
    """
    whole = _compare(setting, setting.n_search_samples, setting.n_search_trials, setting.n_naive_trials)
    longer = _compare(setting, setting.n_samples, 4, 1)
    return [
        Figure(
            "search of 20 trials, times faster than mergekit-yaml + lighteval",
            whole.naive_s / (whole.search_s / whole.n_trials),
            at_least=10,
            detail=f"{setting.small} float32, K=4, 4 tasks x {setting.n_search_samples} samples: {whole.n_trials} "
            f"trials in {whole.search_s:.1f} s from start to end; naive {whole.in_words()}",
        ),
        Figure(
            f"the same with 4 tasks x {setting.n_samples} samples, start-up not counted",
            longer.naive_s / longer.trial_s,
            detail=f"{longer.trial_s:.1f} s a trial; naive {longer.in_words()}",
        ),
        Figure(
            "largest relative difference of a score to lighteval's own",
            max(whole.difference, longer.difference),
            at_most=TOLERANCE,
            detail=f"{whole.n_naive + longer.n_naive} trials x 4 tasks, float32",
        ),
    ]


@dataclass(frozen=True)
class Comparison:
    """One search and the naive loop over its first weights.

    Attributes:
        search_s: The search's process from start to end.
        trial_s: Seconds of one of its trials, the first left out, which loads what is resident.
        merge_s: Seconds of one mergekit-yaml process; ``score_s`` of one lighteval process.
        difference: Largest relative difference of a score.
    """

    n_trials: int
    n_naive: int
    search_s: float
    trial_s: float
    merge_s: float
    score_s: float
    difference: float

    @property
    def naive_s(self) -> float:
        """Seconds of one naive trial."""
        return self.merge_s + self.score_s

    def in_words(self) -> str:
        which = "all" if self.n_naive == self.n_trials else f"the last {self.n_naive}"
        return (
            f"{self.naive_s:.1f} s a trial (mergekit-yaml {self.merge_s:.1f}, lighteval {self.score_s:.1f}), mean of "
            f"{which} of the same weights"
        )


def _compare(setting: Setting, n_samples: int, n_trials: int, n_naive: int) -> Comparison:
    pool = make_pool(setting.work_dir, setting.small, "float32", 4, checkpoints=True)
    recipe = make_recipe(pool, setting.fresh("naive_loop"), n_samples, n_trials)
    run_dir = recipe.parent / "run"
    # Both read the same files: they are in the page cache after the making.
    search_s = _seconds([str(BIN / "mergekit-optimer"), "search", str(recipe), "--run-dir", str(run_dir)])
    records = [json.loads(path.read_text()) for path in sorted((run_dir / "trials").glob("*/scores.json"))]
    spent = {"merge": 0.0, "score": 0.0}
    difference = 0.0
    n_naive = min(n_naive, len(records))
    # The last where not all: of the warm starts at the beginning some are less work.
    for record in records[-n_naive:]:
        scores = _naive_trial(pool, record["weights"], recipe.parent, run_dir / "samples" / "dev", spent)
        for task, value in scores.items():
            difference = max(difference, abs(value / _value(record["tasks"][task]) - 1.0))
    return Comparison(
        n_trials=len(records),
        n_naive=n_naive,
        search_s=search_s,
        trial_s=mean(record["merge_s"] + record["score_s"] for record in records[1:]),
        merge_s=spent["merge"] / n_naive,
        score_s=spent["score"] / n_naive,
        difference=difference,
    )


def _naive_trial(
    pool: Pool, weights: Mapping[str, float], folder: Path, samples_dir: Path, spent: dict[str, float]
) -> dict[str, float]:
    """Merge and score one weight vector as a user would without this package; returns lighteval's scores."""
    work = folder / "naive"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    ingredients = {
        name: Ingredient(str(pool.vector_dirs[name]), str(pool.checkpoint_dirs[name])) for name in pool.names
    }
    (work / "merge.yaml").write_text(portable_yaml(str(pool.base_dir), ingredients, weights, "float32"))
    spent["merge"] += _seconds([str(BIN / "mergekit-yaml"), "merge.yaml", "model", "--quiet"], work)
    tasks = ",".join(f"{path.name}|0" for path in sorted(samples_dir.iterdir()))
    # A relative model_name: of an absolute one, lighteval puts its cache into the model's folder.
    arguments = f"model_name=model,batch_size={BATCH_SIZE},dtype=float32,cache_dir=cache"
    command = [sys.executable, str(SCRIPT), "accelerate", arguments, tasks, "--custom-tasks", str(TASKS)]
    spent["score"] += _seconds([*command, "--output-dir", "out"], work, NAIVE_SAMPLES=str(samples_dir))
    (found,) = (work / "out").rglob("results_*.json")
    results = json.loads(found.read_text())["results"]
    shutil.rmtree(work)
    return {
        re.split(r"[|:]", name)[0]: value
        for name, metrics in results.items()
        if name != "all"
        for metric, value in metrics.items()
        if not metric.endswith("_stderr")
    }


def _value(task: dict[str, object]) -> float:
    from mergekit_optimer.scores import TaskScores

    return TaskScores.from_json(task).score.value


def _seconds(command: list[str], cwd: Path | None = None, **extra: str) -> float:
    """Wall time of a process from start to end; what it says is shown where it fails."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"} | extra
    started = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return elapsed
