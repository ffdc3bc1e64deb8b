"""A whole trial (merge, 4 tasks, metrics, files) against its forward passes alone, and the slopes against a score."""

from __future__ import annotations

import time
from functools import partial

from mergekit_optimer.pipeline import Job, MergeAndScorer
from mergekit_optimer.pipeline.stages import dev_tasks
from mergekit_optimer.recipe import load_recipe
from mergekit_optimer.runs import open_run

from .figures import Figure, least
from .models import make_pool, make_recipe
from .setting import Setting


def measure(setting: Setting) -> list[Figure]:
    """Trials and bare forward passes of the same samples in turn; the best of each."""
    figures = []
    for dtype, at_most in (("float32", 1.25), ("bfloat16", 1.25)):
        pool = make_pool(setting.work_dir, setting.small, dtype, 4)
        folder = setting.fresh(f"trial_{dtype}")
        recipe = load_recipe(make_recipe(pool, folder, setting.n_samples, 1))
        job = Job(recipe, open_run(folder / "run", recipe), "cpu")
        merge_and_score = MergeAndScorer(job, dev_tasks(job))
        trials, forwards, parts = [], [], []
        for number in range(1 + min(4, setting.repetitions)):
            # Other weights each time, as a study would: the same ones need no merge.
            weights = dict.fromkeys(pool.names, 0.3 + 0.01 * number)
            started = time.perf_counter()
            measured = merge_and_score(weights, job.run.trial_dir(number), 0, setting.n_samples)
            merged = time.perf_counter()
            merge_and_score._scorer.forward_only()
            # The first loads model and tasks and plans the batches.
            if number:
                trials.append(merged - started)
                forwards.append(time.perf_counter() - merged)
                parts.append(measured)
        best = parts[trials.index(min(trials))]
        figures.append(
            Figure(
                f"whole trial, {setting.small} {dtype}, K=4, 4 tasks x {setting.n_samples} samples: times its forward "
                "passes",
                min(trials) / min(forwards),
                at_most=at_most,
                detail=f"{min(trials):.2f} s (merge {best.merge_s:.2f}, scores {best.score_s:.2f}) against "
                f"{min(forwards):.2f} s",
            )
        )
        slopes_s = least(partial(_slopes_s, merge_and_score, pool.names, setting.n_samples), 2)
        figures.append(
            Figure(
                f"value and slopes, {setting.small} {dtype}, K=4, 4 tasks x {setting.n_samples} samples: times a score",
                slopes_s / best.score_s,
                at_most=5,
                detail=f"{slopes_s:.2f} s against {best.score_s:.2f} s",
            )
        )
    return figures


def _slopes_s(merge_and_score: MergeAndScorer, names: list[str], n_samples: int) -> float:
    """Seconds of one step of the gradient warm start on all samples."""
    started = time.perf_counter()
    merge_and_score.slopes(dict.fromkeys(names, 0.3), n_samples)
    return time.perf_counter() - started
