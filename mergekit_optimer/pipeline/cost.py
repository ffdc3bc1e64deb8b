"""What a run's pool and search took, from its records: tokens, seconds and FLOPs. Runs no model."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

from mergekit_optimer.analysis import (
    SearchCost,
    Spent,
    counted_parameters,
    scoring_cost,
    search_cost,
    training_cost,
    write_analysis,
)
from mergekit_optimer.errors import SearchError
from mergekit_optimer.files import read_json
from mergekit_optimer.pipeline.analyses import study_records
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.stages import dev_tasks
from mergekit_optimer.recipe import DATA_MIXTURE
from mergekit_optimer.search import TrialRecord
from mergekit_optimer.search.gradient import FORWARDS
from mergekit_optimer.tasks import PreparedTask
from mergekit_optimer.train import RECORD_NAME, read_record
from mergekit_optimer.vectors import TensorFolder


def count_cost(job: Job) -> SearchCost:
    """Count what the pool and the search took, set against searching mixtures, and write it.

    Raises:
        RunFolderError: The study is not finished.
        SearchError: It ran no trial of its own.
    """
    summary = read_json(job.run.winner_path)
    n_run = summary["n_run"]
    if not n_run:
        raise SearchError(
            f"The study of {job.run.root} ran no trial of its own, it ranked another's; count the cost of that run."
        )
    parameters = counted_parameters(TensorFolder(job.base.path))
    pool, unknown = _pool(job, parameters)
    lengths, uncounted = _token_counts(job, dev_tasks(job))
    unknown += uncounted
    search, trials = _search(job, summary, lengths, parameters)
    cost = search_cost(pool, search, _mixture(job, parameters), n_run, trials.times(1 / n_run), parameters, unknown)
    write_analysis(job.run.analysis_path("cost"), cost.to_json(), cost.rows())
    return cost


def _pool(job: Job, parameters: int) -> tuple[Spent, list[str]]:
    """The trainings of the pool as their records have them, each dataset once; and which are not known."""
    total, unknown, seen = Spent(0, 0.0, 0.0), [], set()
    for name, vector in job.pool.vectors.items():
        dataset = job.recipe.pool[name].dataset
        if dataset is not None and dataset in seen:
            continue
        seen.add(dataset)
        training = vector.training or {}
        tokens, seconds = training.get("n_tokens_trained"), training.get("elapsed_s")
        # The record may come from anybody.
        if not isinstance(tokens, int) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
            unknown.append(f"the training of vector {name}")
            continue
        total = total.plus(training_cost(tokens, float(seconds), parameters))
    return total, unknown


def _mixture(job: Job, parameters: int) -> Spent | None:
    folder = job.run.checkpoint_dir(DATA_MIXTURE)
    if not (folder / RECORD_NAME).exists():
        return None
    record = read_record(folder)
    return training_cost(record.n_tokens_trained, record.elapsed_s, parameters)


def _search(job: Job, summary: dict[str, Any], lengths: dict[str, list[int]], parameters: int) -> tuple[Spent, Spent]:
    """What the whole search took, and its trials alone, without the gradients that gave warm starts."""
    own = [record for record in study_records(job) if record.origin is None and record.same_as is None]
    n_tokens = sum(_scored(record, lengths) for record in own)
    seconds = summary["merge_s"] + summary["score_s"]
    trials = scoring_cost(n_tokens, 0, seconds, parameters)
    n_gradient_tokens = 0
    if summary["gradient"]:
        # Its cost is known in trials, with so many forward passes for one with a gradient.
        passes = summary["gradient"]["sample_cost"] / FORWARDS
        first = job.recipe.search.rungs[0].n_samples
        tasks = job.recipe.slope_tasks
        n_gradient_tokens = round(passes * sum(_first(lengths[name], first) for name in tasks if name in lengths))
    return scoring_cost(n_tokens, n_gradient_tokens, seconds + summary["gradient_s"], parameters), trials


def _scored(record: TrialRecord, lengths: dict[str, list[int]]) -> int:
    return sum(_first(counts, record.n_samples) for counts in lengths.values())


def _first(cumulated: list[int], n_samples: int) -> int:
    """Tokens of the first n samples."""
    n = min(n_samples, len(cumulated))
    return cumulated[n - 1] if n else 0


def _token_counts(job: Job, tasks: list[PreparedTask]) -> tuple[dict[str, list[int]], list[str]]:
    """Task -> tokens of its first 1, 2, ... samples, each context once; and the tasks whose tokens are not ours to see.

    What a generating task writes is not known beforehand, and lighteval's own samples are not the recipe's.
    """
    counts, unknown = {}, []
    for task in tasks:
        if task.kind not in ("text", "choice"):
            unknown.append(f"the tokens of dev task {task.name} (kind: {task.kind})")
            continue
        counts[task.name] = list(accumulate(_n_tokens(job.tokenizer, sample) for sample in task.samples()))
    return counts, unknown


def _n_tokens(tokenizer: Any, sample: dict[str, Any]) -> int:
    if "target" in sample:
        return len(tokenizer(sample["context"] + sample["target"], verbose=False)["input_ids"])
    choices = tokenizer(sample["choices"], add_special_tokens=False, verbose=False)["input_ids"]
    return len(tokenizer(sample["question"], verbose=False)["input_ids"]) + sum(map(len, choices))
