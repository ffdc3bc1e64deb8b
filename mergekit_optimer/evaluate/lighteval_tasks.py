"""Prepared tasks -> lighteval tasks with their samples and metrics, in the prepared order.

The module needs lighteval's classes, so it is imported inside ``lighteval_compat.contained`` only.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from lighteval.metrics.metrics_corpus import CorpusLevelPerplexityMetric
from lighteval.metrics.metrics_sample import (
    MRR,
    ROUGE,
    ExactMatches,
    F1_score,
    LoglikelihoodAcc,
    Recall,
    SampleLevelComputation,
)
from lighteval.metrics.normalizations import LogProbCharNorm, LogProbPMINorm
from lighteval.metrics.sample_preparator import TargetPerplexityPreparator
from lighteval.metrics.utils.metric_utils import CorpusLevelMetric, Metric, MetricGrouping, SampleLevelMetric
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.lighteval_task import LightevalTask, LightevalTaskConfig
from lighteval.tasks.registry import Registry
from lighteval.tasks.requests import Doc, SamplingMethod

from mergekit_optimer.errors import TaskError
from mergekit_optimer.evaluate.lighteval_compat import broken_task_modules_left_out
from mergekit_optimer.evaluate.live_model import N_CONTEXT_TOKENS
from mergekit_optimer.recipe import GenerateTask
from mergekit_optimer.recipe import LightevalTask as LightevalSpec
from mergekit_optimer.tasks import METRICS, PreparedTask
from mergekit_optimer.tasks.prepared import SPLIT

# Marks our samples; lighteval's own metrics may ask for more of a response than ours do.
_OURS = {"prepared": True}
# Worse than any score a metric of unknown scale gives, and still a number a sampler can work with.
_UNKNOWN_FLOOR = 1.0e6
# lighteval's metrics that are 0 at worst; of others, the user's own among them, no bound is known.
_ZERO_AT_WORST = (ExactMatches, F1_score, LoglikelihoodAcc, MRR, Recall, ROUGE)


@dataclass(frozen=True)
class ScorableTask:
    """A task as lighteval scores it.

    Attributes:
        name: Name in the recipe.
        primary: The recipe's choice of metric.
        docs: All samples in their fixed order.
        metrics: lighteval metrics, all of one category.
        kinds: Direction and floor of each reported metric.
        stock: Whether samples and metric are lighteval's or the user's own.
    """

    name: str
    primary: str
    docs: list[Doc]
    metrics: list[Metric]
    kinds: dict[str, tuple[bool, float]]
    stock: bool

    @property
    def category(self) -> SamplingMethod:
        return self.metrics[0].category


class GoldLogLikelihood(SampleLevelComputation):  # type: ignore[misc]
    """log p(gold) per byte, in nats: separates models that accuracy cannot tell apart."""

    def compute(self, doc: Doc, model_response: ModelResponse, **_: Any) -> float:
        return float(model_response.logprobs[doc.gold_index]) / len(doc.choices[doc.gold_index].encode())


class GoldProbability(SampleLevelComputation):  # type: ignore[misc]
    """p(gold) among the choices."""

    def compute(self, doc: Doc, model_response: ModelResponse, **_: Any) -> float:
        logprobs = np.asarray(model_response.logprobs, dtype=np.float64)
        shares = np.exp(logprobs - logprobs.max())
        return float(shares[doc.gold_index] / shares.sum())


def scorable_tasks(tasks: list[PreparedTask]) -> list[ScorableTask]:
    """Build lighteval's tasks and samples once.

    Raises:
        TaskError: lighteval does not know a task or metric, its data cannot be had, or the metric gives no number
            per sample.
    """
    return [_stock_task(task, task.spec) if isinstance(task.spec, LightevalSpec) else _our_task(task) for task in tasks]


def _our_task(task: PreparedTask) -> ScorableTask:
    metrics = [_metric(name) for name in task.metrics]
    generation: dict[str, Any] = {"stop_sequence": []}
    if isinstance(task.spec, GenerateTask):
        generation = {"generation_size": task.spec.max_new_tokens, "stop_sequence": list(task.spec.stop)}
    lighteval_task = LightevalTask(
        LightevalTaskConfig(
            name=task.name,
            prompt_function=_PROMPTS[task.kind],
            hf_repo=str(task.folder),
            hf_subset="default",
            hf_avail_splits=[SPLIT],
            evaluation_splits=[SPLIT],
            few_shots_split=SPLIT,
            metrics=metrics,
            **generation,
        )
    )
    # Read by us: load_dataset would write a copy into the user's cache.
    lighteval_task.dataset = {SPLIT: task.samples()}
    # lighteval shuffles; an id is the sample's line.
    docs = sorted(lighteval_task.get_docs(), key=lambda doc: int(doc.id))
    kinds = {name: (METRICS[name].higher_is_better, METRICS[name].floor) for name in task.metrics}
    return ScorableTask(task.name, task.primary, docs, metrics, kinds, stock=False)


def _text_prompt(line: dict[str, Any], task_name: str) -> Doc:
    specific = _OURS | {N_CONTEXT_TOKENS: line["n_context_tokens"]}
    return Doc(task_name=task_name, query=line["context"], choices=[line["target"]], gold_index=0, specific=specific)


def _choice_prompt(line: dict[str, Any], task_name: str) -> Doc:
    return Doc(
        task_name=task_name,
        query=line["question"],
        choices=line["choices"],
        gold_index=line["answer"],
        specific=dict(_OURS),
    )


def _generate_prompt(line: dict[str, Any], task_name: str) -> Doc:
    gold = list(range(len(line["answers"])))
    return Doc(
        task_name=task_name, query=line["question"], choices=line["answers"], gold_index=gold, specific=dict(_OURS)
    )


_PROMPTS = {"text": _text_prompt, "choice": _choice_prompt, "generate": _generate_prompt}


def _metric(name: str) -> Metric:
    """Return our name's lighteval metric."""
    if name == "bits_per_byte":
        # lighteval's perplexity requests are broken in 0.13; the same number through log-likelihood requests.
        prepare, corpus = TargetPerplexityPreparator("bytes"), CorpusLevelPerplexityMetric("bits_per_byte")
        return CorpusLevelMetric(name, False, SamplingMethod.LOGPROBS, prepare, corpus)
    if name == "exact_match":
        return SampleLevelMetric(name, True, SamplingMethod.GENERATIVE, ExactMatches(strip_strings=True), np.mean)
    computations = {
        "gold_ll": GoldLogLikelihood(),
        "gold_p": GoldProbability(),
        "acc": LoglikelihoodAcc(),
        "acc_norm": LoglikelihoodAcc(LogProbCharNorm(ignore_first_space=True)),
    }
    return SampleLevelMetric(name, True, SamplingMethod.LOGPROBS, computations[name], np.mean)


def _stock_task(task: PreparedTask, spec: LightevalSpec) -> ScorableTask:
    try:
        with broken_task_modules_left_out():
            registry = Registry(tasks=_with_shots(spec.task), custom_tasks=task.file)
    except ValueError as error:
        raise TaskError(f"Task '{task.name}': lighteval does not know '{spec.task}' ({error}).") from error
    except Exception as error:
        # The task file is the user's code and may raise anything.
        raise TaskError(f"Task '{task.name}': {task.file} cannot be loaded: {_named(error)}") from error
    found = list(registry.load_tasks().values())
    if len(found) != 1:
        names = ", ".join(sorted(one.full_name for one in found)[:4])
        raise TaskError(f"Task '{task.name}': '{spec.task}' stands for {len(found)} tasks ({names} ...); name one.")
    lighteval_task = found[0]
    metric, higher_is_better = _stock_metric(task.name, spec, lighteval_task)
    # Samples ask for what their task's metrics need; with one metric left, they ask for what it needs.
    lighteval_task.sampling_methods = [metric.category]
    lighteval_task.metrics = (metric,)
    try:
        LightevalTask.load_datasets({lighteval_task.full_name: lighteval_task})
        docs = lighteval_task.get_docs()
    except Exception as error:
        # datasets, the Hub's client and the task's own prompt function have no error class in common.
        raise TaskError(f"Task '{task.name}': the data of '{spec.task}' cannot be had: {_named(error)}") from error
    if len(docs) < 2:
        raise TaskError(f"Task '{task.name}': '{spec.task}' has {len(docs)} samples; 2 or more are needed.")
    for doc in docs:
        # lighteval adds this to a list, and dies where it is its own default, a tuple.
        doc.stop_sequences = list(doc.stop_sequences or [])
    kinds = {spec.metric: (higher_is_better, _floor(metric, higher_is_better))}
    return ScorableTask(task.name, spec.metric, docs, [metric], kinds, stock=True)


def _floor(metric: Metric, higher_is_better: bool) -> float:
    """What a collapsed model is given: never more than a model that works can have."""
    if not higher_is_better:
        return _UNKNOWN_FLOOR
    return 0.0 if isinstance(metric.sample_level_fn, _ZERO_AT_WORST) else -_UNKNOWN_FLOOR


def _stock_metric(name: str, spec: LightevalSpec, task: LightevalTask) -> tuple[Metric, bool]:
    """Return the lighteval metric that gives the recipe's choice, and its direction."""
    directions: dict[str, tuple[Metric, bool]] = {}
    for metric in task.metrics:
        if isinstance(metric, MetricGrouping):
            directions |= {one: (metric, bool(metric.higher_is_better[one])) for one in metric.metric_name}
        else:
            directions[metric.metric_name] = (metric, bool(metric.higher_is_better))
    if spec.metric not in directions:
        raise TaskError(
            f"Task '{name}': '{spec.task}' has no metric '{spec.metric}', only {', '.join(sorted(directions))}."
        )
    metric, higher_is_better = directions[spec.metric]
    if higher_is_better != spec.higher_is_better:
        raise TaskError(
            f"Task '{name}': of '{spec.metric}' lighteval says that {'higher' if higher_is_better else 'lower'} is "
            f"better; set higher_is_better: {str(higher_is_better).lower()}."
        )
    normalization = getattr(metric.sample_level_fn, "logprob_normalization", None)
    if metric.category == SamplingMethod.PERPLEXITY or isinstance(normalization, LogProbPMINorm):
        raise TaskError(
            f"Task '{name}': lighteval cannot compute '{spec.metric}' correctly in this version; choose "
            "another metric, or kind: text for bits per byte."
        )
    return metric, higher_is_better


def sample_value(value: Any) -> tuple[float, float]:
    """Return one sample's number and weight from what a lighteval metric gave.

    Raises:
        TypeError: It is no number.
    """
    if hasattr(value, "logprobs") and hasattr(value, "weights"):
        return -float(value.logprobs) / value.weights / math.log(2.0), float(value.weights)
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return float(value), 1.0
    raise TypeError(type(value).__name__)


def _with_shots(task: str) -> str:
    """lighteval reads "name" as zero-shot but splits its list at commas."""
    if "," in task:
        raise ValueError("name one task")
    return task if re.search(r"\|\d+$", task) else f"{task}|0"


def _named(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
