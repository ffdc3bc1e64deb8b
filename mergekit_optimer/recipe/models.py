"""The frozen models of recipe.yaml: which keys exist and what each may hold. Reads no file and imports no torch."""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from mergekit_optimer.recipe.search import SearchSection, WeightInterval
from mergekit_optimer.recipe.sft_options import check_sft_options
from mergekit_optimer.recipe.sources import ModelSource, Name, Positive, Section, Source, TextSource
from mergekit_optimer.recipe.tasks import LOG_LIKELIHOODS, LightevalTask, TaskSpec

# The baselines trained on the mixed data; their checkpoints lie among those of the datasets.
DATA_MIXTURE = "data_mixture"
OPTIMISED_MIXTURE = "data_mixture/optimised"

# A repository of the Hub.
REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_REPO_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/([A-Za-z0-9_][A-Za-z0-9._-]*)?")


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
    """The ``data_mixture`` baseline: shares of tokens per dataset, equal where omitted.

    ``optimised: true`` also trains ``data_mixture/optimised``, at the shares that the winner's weights stand for.
    """

    shares: dict[Name, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    # Left out of the canonical recipe where it is false, so that runs made before there was such a key can go on.
    optimised: bool = Field(default=False, exclude_if=operator.not_)


class TrainSection(Section):
    """Continual pre-training: SFTConfig options for all datasets, and the datasets.

    ``keep_checkpoints: 8`` keeps eight points on the way of each dataset's training, for its trajectory.
    """

    defaults: dict[str, Any] = Field(default_factory=dict)
    datasets: dict[Name, DatasetSpec] = Field(min_length=1)
    mixture: MixtureSpec | None = None
    # Left out of the canonical recipe where it is not given, as ``optimised`` is.
    keep_checkpoints: Positive | None = Field(default=None, exclude_if=operator.not_)

    @field_validator("defaults")
    @classmethod
    def _defaults_are_sft_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_sft_options(value)
        return value

    @field_validator("datasets")
    @classmethod
    def _leaves_the_baseline_its_name(cls, value: dict[str, DatasetSpec]) -> dict[str, DatasetSpec]:
        for name in (DATA_MIXTURE, OPTIMISED_MIXTURE.replace("/", "_")):
            if name in value:
                raise ValueError(
                    f"{name} is the name of the baseline trained on the mixed data; give the dataset another name"
                )
        return value

    @model_validator(mode="after")
    def _shares_name_datasets(self) -> Self:
        shares = self.mixture.shares if self.mixture else None
        unknown = sorted(set(shares or {}) - set(self.datasets))
        if unknown:
            raise ValueError(f"mixture.shares names unknown datasets: {', '.join(unknown)}")
        return self


class VectorSpec(Section):
    """One member of the vector pool: trained here, a checkpoint or adapter (of its own base, perhaps), or a delta."""

    dataset: Name | None = None
    checkpoint: ModelSource | None = None
    adapter: ModelSource | None = None
    delta: Source | None = None
    base: ModelSource | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        origins = (self.dataset, self.checkpoint, self.adapter, self.delta)
        if sum(origin is not None for origin in origins) != 1:
            raise ValueError("give exactly one of dataset, checkpoint, adapter, delta")
        if self.base is not None and self.checkpoint is None and self.adapter is None:
            raise ValueError("base belongs to checkpoint or adapter")
        if self.adapter is not None and self.adapter.trust_remote_code:
            raise ValueError("an adapter ships no code; trust_remote_code belongs to its base")
        return self


class PublishSection(Section):
    """What the card of the merged model says, and the repositories for it and for what it was made from.

    ``checkpoints`` and ``vectors`` are beginnings of repositories: org/dv- makes vector ja org/dv-ja.
    """

    repo: str | None = None
    checkpoints: str | None = None
    vectors: str | None = None
    pool: str | None = None
    private: bool = True
    license: Annotated[str, Field(pattern=r"^[^\n\r]{1,100}$")] = "other"
    language: list[str] = Field(default_factory=list)

    @field_validator("repo", "pool")
    @classmethod
    def _is_a_repository(cls, value: str | None) -> str | None:
        # It is written into cards and reports, where a path of this machine has no place.
        if value is not None and not REPO.fullmatch(value):
            raise ValueError(f"'{value}' is no repository; write owner/name, of letters, digits, '.', '_' and '-'")
        return value

    @field_validator("checkpoints", "vectors")
    @classmethod
    def _begins_repositories(cls, value: str | None) -> str | None:
        if value is not None and not _REPO_PREFIX.fullmatch(value):
            raise ValueError(f"'{value}' begins no repository; write owner/ or owner/prefix-, as org/dv-")
        return value

    def repositories(self, vectors: Iterable[str]) -> dict[str, str]:
        """What each part of a study is published as, by what it is: "vector ja", "pool", ..."""
        parts = {"merged model": self.repo, "pool": self.pool}
        for name in sorted(vectors):
            parts[f"vector {name}"] = f"{self.vectors}{name}" if self.vectors is not None else None
            parts[f"checkpoint {name}"] = f"{self.checkpoints}{name}" if self.checkpoints is not None else None
        return {part: repo for part, repo in parts.items() if repo is not None}


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
        shares = self.train.mixture.shares if self.train and self.train.mixture else None
        unpooled = sorted(set(shares or {}) - {spec.dataset for spec in self.pool.values()})
        if unpooled:
            problems.append(f"train.mixture.shares: {', '.join(unpooled)} is no vector's dataset")
        if not self.pool:
            problems.append("no vectors: give train.datasets or vectors")
        weights = self.search.weights
        if isinstance(weights, dict) and set(weights) != set(self.pool):
            problems.append(f"search.weights: intervals for {sorted(weights)}, vectors are {sorted(self.pool)}")
        problems += self._weights_without_base()
        problems += self._repositories_of_two()
        unknown = sorted(self.search.objective.task_names - set(self.tasks))
        if unknown:
            problems.append(f"search.objective: {', '.join(unknown)} not in tasks ({', '.join(sorted(self.tasks))})")
        elif "gradient" in self.search.warm_starts and not self.slope_tasks:
            problems.append(
                "search.warm_starts: gradient needs a log-likelihood in the objective, whose tasks have none; give one "
                f"of them metric: gold_ll (kind: choice), or add a task of kind: text ({self._metrics_named()})"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def slope_tasks(self) -> dict[str, float]:
        """The tasks of the objective that are log-likelihoods, so have a gradient, with their weights in it."""
        weights = self.search.objective.task_weights
        ours = {name for name, task in self.tasks.items() if not isinstance(task, LightevalTask)}
        return {n: weight for n, weight in weights.items() if n in ours and self.tasks[n].metric in LOG_LIKELIHOODS}

    def _metrics_named(self) -> str:
        return ", ".join(f"{name}: {self.tasks[name].metric}" for name in sorted(self.search.objective.task_weights))

    def _weights_without_base(self) -> list[str]:
        """Name the intervals without 0 where trials are measured against the base model, which is all weights 0."""
        if not (self.search.objective.gain_over_base or self.search.objective.keep):
            return []
        weights = self.search.weights
        if isinstance(weights, WeightInterval):
            intervals = {"the interval": weights}
        else:
            intervals = {f"the interval of '{name}'": interval for name, interval in sorted(weights.items())}
        return [
            f"search.weights: {which} excludes 0, but the objective measures trials against the base model"
            for which, interval in intervals.items()
            if interval.low > 0 or interval.high < 0
        ]

    def _repositories_of_two(self) -> list[str]:
        """Name the repositories that two parts of the study would be pushed to; the Hub takes A and a for one."""
        parts: dict[str, list[str]] = {}
        for part, repo in self.publish.repositories(self.pool).items():
            parts.setdefault(repo.lower(), []).append(part)
        return [
            f"publish: {' and '.join(two)} would be one repository, {repo}" for repo, two in parts.items() if two[1:]
        ]

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

    def local_paths(self) -> dict[str, Path]:
        """Every file and folder that the recipe names, as an absolute path, by its dotted place."""
        found: dict[str, Path] = {}

        def look(value: Any, place: str) -> None:
            if isinstance(value, dict):
                for key, inner in value.items():
                    look(inner, f"{place}.{key}".lstrip("."))
            elif isinstance(value, str) and place.rpartition(".")[2] in ("path", "file"):
                found[place] = self.resolve(value)

        look(self.canonical(), "")
        return found

    def canonical(self) -> dict[str, Any]:
        """Return the recipe as plain data, independent of where it lies and of how it was written."""
        return self.model_dump(mode="json")

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical recipe, in hex."""
        text = json.dumps(self.canonical(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()
