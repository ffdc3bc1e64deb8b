"""The frozen models of recipe.yaml: which keys exist and what each may hold. Reads no file and imports no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from mergekit_optimer.recipe.sft_options import check_sft_options

# A name becomes a folder name and a line of a card: letters, digits, dot, dash and underscore only.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the recipe: frozen, typed strictly, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Section):
    """Where files come from: a local path (relative to the recipe) or a Hub repository at a revision."""

    path: str | None = None
    repo: str | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.path is None) == (self.repo is None):
            raise ValueError("give either path or repo")
        if self.revision is not None and self.repo is None:
            raise ValueError("revision belongs to repo, not to path")
        return self

    def __str__(self) -> str:
        if self.repo is None:
            return str(self.path)
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


class ModelSource(Source):
    """A model folder or repository. Code shipped with a model runs only where the recipe says so."""

    trust_remote_code: bool = False


class TextSource(Source):
    """Documents: .txt (one a file), .jsonl or .parquet, also .xz or .gz, a folder of them, or a Hub dataset."""

    text_field: str = "text"
    split: str = "train"


class DatasetSpec(TextSource):
    """A training dataset; every further key is an SFTConfig option that overrides ``train.defaults``."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    @model_validator(mode="after")
    def _knows_its_options(self) -> Self:
        check_sft_options(self.sft_options)
        return self

    @property
    def sft_options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class MixtureSpec(Section):
    """The ``data_mixture`` baseline: shares of tokens per dataset, equal where omitted."""

    shares: dict[Name, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None


class TrainSection(Section):
    """Continual pre-training: SFTConfig options for all datasets, and the datasets."""

    defaults: dict[str, Any] = Field(default_factory=dict)
    datasets: dict[Name, DatasetSpec] = Field(min_length=1)
    mixture: MixtureSpec | None = None

    @field_validator("defaults")
    @classmethod
    def _defaults_are_sft_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_sft_options(value)
        return value

    @model_validator(mode="after")
    def _shares_name_datasets(self) -> Self:
        shares = self.mixture.shares if self.mixture else None
        unknown = sorted(set(shares or {}) - set(self.datasets))
        if unknown:
            raise ValueError(f"mixture.shares names unknown datasets: {', '.join(unknown)}")
        return self


class VectorSpec(Section):
    """One member of the vector pool: trained here, a checkpoint (of its own base, perhaps), or a stored delta."""

    dataset: Name | None = None
    checkpoint: ModelSource | None = None
    delta: Source | None = None
    base: ModelSource | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.dataset, self.checkpoint, self.delta)) != 1:
            raise ValueError("give exactly one of dataset, checkpoint, delta")
        if self.base is not None and self.checkpoint is None:
            raise ValueError("base belongs to checkpoint")
        return self


class SamplerSpec(Section):
    """Optuna's sampler, every option stated: Optuna 5 changed TPE's defaults."""

    name: Literal["tpe", "random"] = "tpe"
    multivariate: bool = True
    constant_liar: bool = False
    n_startup_trials: Positive = 10


class WeightInterval(Section):
    """The closed interval in which a merge weight is searched."""

    low: Finite
    high: Finite

    @model_validator(mode="after")
    def _is_an_interval(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self


class Rung(Section):
    """How many dev samples of each task; ``top``: only the best so many trials get this far."""

    n_samples: Positive
    top: Positive | None = None


class Objective(Section):
    """What the search maximises, from the primary metrics of the dev tasks (lower-is-better ones negated)."""

    mean: list[Name] | None = None
    weighted: dict[Name, Finite] | None = None
    gain_over_base: bool = False
    keep: dict[Name, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if (self.mean is None) == (self.weighted is None):
            raise ValueError("give either mean or weighted")
        if not self.task_weights:
            raise ValueError("names no task")
        return self

    @property
    def task_weights(self) -> dict[str, float]:
        """Weight of each task in the objective; a mean gives each 1/n."""
        if self.mean is not None:
            return {name: 1.0 / len(set(self.mean)) for name in sorted(set(self.mean))}
        return dict(self.weighted or {})

    @property
    def task_names(self) -> set[str]:
        return set(self.task_weights) | set(self.keep)


WarmStart = Literal["zero", "uniform_average", "half", "sum", "singles"]


def _weights_form(value: Any) -> str:
    """Tell one interval for all vectors from an interval per vector."""
    if isinstance(value, WeightInterval) or (isinstance(value, dict) and set(value) <= {"low", "high"}):
        return "interval"
    return "per_vector"


WeightSpace = Annotated[
    Annotated[WeightInterval, Tag("interval")] | Annotated[dict[Name, WeightInterval], Tag("per_vector")],
    Discriminator(_weights_form),
]


class SearchSection(Section):
    """The Optuna study."""

    sampler: SamplerSpec = SamplerSpec()
    n_trials: Positive = 100
    weights: WeightSpace = WeightInterval(low=-0.5, high=1.25)
    warm_starts: list[WarmStart] = ["zero", "uniform_average", "half", "singles"]
    rungs: list[Rung] = Field(default=[Rung(n_samples=100), Rung(n_samples=300, top=3)], min_length=1)
    objective: Objective

    @field_validator("rungs")
    @classmethod
    def _rungs_climb(cls, rungs: list[Rung]) -> list[Rung]:
        first, *rest = rungs
        if first.top is not None:
            raise ValueError("every trial takes the first rung, so it has no top")
        if any(rung.top is None for rung in rest):
            raise ValueError("every rung after the first needs top")
        sizes = [rung.n_samples for rung in rungs]
        if sizes != sorted(set(sizes)):
            raise ValueError("n_samples must grow from rung to rung")
        return rungs

    def interval(self, vector: str) -> WeightInterval:
        """Return the interval of one vector.

        Raises:
            KeyError: ``weights`` is given per vector and has no entry for this one.
        """
        return self.weights if isinstance(self.weights, WeightInterval) else self.weights[vector]


class TextTask(TextSource):
    """Bits per byte of documents, each cut to its first ``max_tokens`` tokens."""

    kind: Literal["text"]
    metric: Literal["bits_per_byte"] = "bits_per_byte"
    max_tokens: Positive = 256


class ChoiceTask(TextSource):
    """The gold continuation among distractors, from jsonl items or, with ``make_choices``, from raw text."""

    kind: Literal["choice"]
    metric: Literal["gold_ll", "gold_p", "acc", "acc_norm"] = "gold_ll"
    question_field: str = "question"
    choices_field: str = "choices"
    answer_field: str = "answer"
    make_choices: bool = False
    max_tokens: Positive = 256


class GenerateTask(TextSource):
    """Greedy generation compared with the answer's text."""

    kind: Literal["generate"]
    metric: Literal["exact_match"] = "exact_match"
    question_field: str = "question"
    answer_field: str = "answer"
    max_new_tokens: Positive = 32
    stop: list[str] = ["\n"]


class LightevalTask(Section):
    """A stock lighteval task ("gsm8k|0") or one of the user's own task file."""

    kind: Literal["lighteval"]
    task: str
    metric: str
    file: str | None = None
    higher_is_better: bool = True


TaskSpec = Annotated[TextTask | ChoiceTask | GenerateTask | LightevalTask, Field(discriminator="kind")]


class PublishSection(Section):
    """What the card and the repository of the merged model say."""

    repo: str | None = None
    private: bool = True
    license: str = "other"
    language: list[str] = Field(default_factory=list)


class Recipe(Section):
    """One study, whole: what recipe.yaml holds. Paths in it are relative to ``folder``."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    base_model: ModelSource
    train: TrainSection | None = None
    vectors: dict[Name, VectorSpec] | None = None
    search: SearchSection
    tasks: dict[Name, TaskSpec] = Field(min_length=1)
    held_out: dict[Name, TaskSpec] = Field(min_length=1)
    publish: PublishSection = PublishSection()
    folder: Path = Field(default=Path(), exclude=True, repr=False)

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        problems = []
        datasets = set(self.train.datasets) if self.train else set()
        for name, spec in self.pool.items():
            if spec.dataset is not None and spec.dataset not in datasets:
                problems.append(f"vectors.{name}: dataset '{spec.dataset}' is not in train.datasets")
        if not self.pool:
            problems.append("no vectors: give train.datasets or vectors")
        weights = self.search.weights
        if isinstance(weights, dict) and set(weights) != set(self.pool):
            problems.append(f"search.weights: intervals for {sorted(weights)}, vectors are {sorted(self.pool)}")
        unknown = sorted(self.search.objective.task_names - set(self.tasks))
        if unknown:
            problems.append(f"search.objective: {', '.join(unknown)} not in tasks ({', '.join(sorted(self.tasks))})")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def pool(self) -> dict[str, VectorSpec]:
        """The vectors in name order; where ``vectors`` is omitted, one per trained dataset."""
        if self.vectors is not None:
            return dict(sorted(self.vectors.items()))
        datasets = self.train.datasets if self.train else {}
        return {name: VectorSpec(dataset=name) for name in sorted(datasets)}

    def resolve(self, path: str) -> Path:
        """Return a recipe path as an absolute one."""
        return (self.folder / path).resolve()

    def canonical(self) -> dict[str, Any]:
        """Return the recipe as plain data, independent of where it lies and of how it was written."""
        return self.model_dump(mode="json")

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical recipe, in hex."""
        text = json.dumps(self.canonical(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()
