"""The recipe's dev tasks as a file for lighteval's own command line, as a user without this package would write it.

NAIVE_SAMPLES names a folder with one folder of test.jsonl per task.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from lighteval.metrics.metrics_corpus import CorpusLevelPerplexityMetric
from lighteval.metrics.metrics_sample import SampleLevelComputation
from lighteval.metrics.sample_preparator import TargetPerplexityPreparator
from lighteval.metrics.utils.metric_utils import CorpusLevelMetric, SampleLevelMetric, SamplingMethod
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc


class GoldLogLikelihood(SampleLevelComputation):
    """log p(gold) per byte."""

    def compute(self, doc: Doc, model_response: ModelResponse, **_: Any) -> float:
        return float(model_response.logprobs[doc.gold_index]) / len(doc.choices[doc.gold_index].encode())


def text(line: dict[str, Any], task_name: str) -> Doc:
    return Doc(task_name=task_name, query=line["context"], choices=[line["target"]], gold_index=0)


def choice(line: dict[str, Any], task_name: str) -> Doc:
    return Doc(task_name=task_name, query=line["question"], choices=line["choices"], gold_index=line["answer"])


# lighteval's perplexity requests are broken in 0.13; the same number through log-likelihood requests.
bits_per_byte = CorpusLevelMetric(
    "bits_per_byte",
    False,
    SamplingMethod.LOGPROBS,
    TargetPerplexityPreparator("bytes"),
    CorpusLevelPerplexityMetric("bits_per_byte"),
)
gold_ll = SampleLevelMetric("gold_ll", True, SamplingMethod.LOGPROBS, GoldLogLikelihood(), np.mean)


def config(folder: Path) -> LightevalTaskConfig:
    with (folder / "test.jsonl").open(encoding="utf-8") as file:
        is_text = "target" in json.loads(file.readline())
    return LightevalTaskConfig(
        name=folder.name,
        prompt_function=text if is_text else choice,
        hf_repo=str(folder),
        hf_subset="default",
        hf_avail_splits=["test"],
        evaluation_splits=["test"],
        few_shots_split="test",
        metrics=[bits_per_byte if is_text else gold_ll],
        stop_sequence=[],
    )


TASKS_TABLE = [config(folder) for folder in sorted(Path(os.environ["NAIVE_SAMPLES"]).iterdir()) if folder.is_dir()]
