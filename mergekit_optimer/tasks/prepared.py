"""A task ready to be scored: which samples, in which order, by which metrics. Knows nothing of how they were made."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_optimer.files import write_text
from mergekit_optimer.recipe import TaskSpec

# lighteval takes a folder with {split}.jsonl for a dataset; the samples can be scored with its own command line too.
SPLIT = "test"


@dataclass(frozen=True)
class MetricKind:
    """Direction of a metric, and what a model that knows nothing scores (collapse: see ``scores``)."""

    higher_is_better: bool
    floor: float


METRICS = {
    "bits_per_byte": MetricKind(higher_is_better=False, floor=8.0),
    "gold_ll": MetricKind(higher_is_better=True, floor=-8.0 * math.log(2.0)),
    "gold_p": MetricKind(higher_is_better=True, floor=0.0),
    "acc": MetricKind(higher_is_better=True, floor=0.0),
    "acc_norm": MetricKind(higher_is_better=True, floor=0.0),
    "exact_match": MetricKind(higher_is_better=True, floor=0.0),
}

METRICS_OF = {
    "text": ("bits_per_byte",),
    "choice": ("gold_ll", "gold_p", "acc", "acc_norm"),
    "generate": ("exact_match",),
}


@dataclass(frozen=True)
class PreparedTask:
    """One task with its samples written out.

    Attributes:
        name: Name in the recipe.
        spec: The recipe's section.
        metrics: Everything that is measured; the recipe's choice among them is ``primary``.
        n_samples: Number of samples; None for a lighteval task, whose data lighteval loads.
        folder: Folder with the samples; None for a lighteval task.
        file: The user's lighteval task file.
        content_hash: SHA-256 over what decides the samples. For a lighteval task: its name, metric and task file,
            not the data, which lighteval loads.
    """

    name: str
    spec: TaskSpec
    metrics: tuple[str, ...]
    n_samples: int | None
    folder: Path | None
    content_hash: str
    file: Path | None = None

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def primary(self) -> str:
        return self.spec.metric

    def samples(self) -> list[dict[str, Any]]:
        """Read the samples in their fixed order (none for a lighteval task)."""
        if self.folder is None:
            return []
        text = (self.folder / f"{SPLIT}.jsonl").read_text(encoding="utf-8")
        # Not splitlines(): U+2028 and the like stay unescaped inside a sample.
        return [json.loads(line) for line in text.split("\n") if line]


def write_samples(name: str, spec: TaskSpec, samples: list[dict[str, Any]], folder: Path) -> PreparedTask:
    """Write the samples of one task as they will be scored."""
    text = "".join(json.dumps(sample, ensure_ascii=False, sort_keys=True) + "\n" for sample in samples)
    write_text(folder / f"{SPLIT}.jsonl", text)
    settings = {key: getattr(spec, key) for key in ("metric", "max_new_tokens", "stop") if hasattr(spec, key)}
    identity = json.dumps([spec.kind, settings], sort_keys=True) + "\n" + text
    return PreparedTask(
        name=name,
        spec=spec,
        metrics=METRICS_OF[spec.kind],
        n_samples=len(samples),
        folder=folder,
        content_hash=hashlib.sha256(identity.encode()).hexdigest(),
    )
