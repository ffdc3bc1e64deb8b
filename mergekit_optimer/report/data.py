"""The numbers of a finished run as plain frozen data: exactly what report.json holds. No reading, no arithmetic."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from mergekit_optimer.compare import BaselineComparison, Comparison
from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.scores import Score

Part = Literal["dev", "held_out"]


@dataclass(frozen=True)
class BaseModelFacts:
    """The base model.

    Attributes:
        label: What may be said of it in public: repo@sha, or the last part of a local path.
        repo: Hub repository; None for a local folder.
        revision: Commit sha; None for a local folder.
        fingerprint: Hash of its weights.
    """

    label: str
    repo: str | None
    revision: str | None
    fingerprint: str


@dataclass(frozen=True)
class VectorFacts:
    """One vector of the pool and the weight that the winner gives it.

    Attributes:
        label: Where its checkpoint or delta is from: repo@sha, or a name.
        repo: Hub repository of that; None for a local one.
        revision: Commit sha of that repository; None for a local one.
        dataset: Label of the data it was trained on; None where unknown.
        dataset_repo: Hub repository of the data; None for local or unknown data. ``dataset_revision``: its commit sha.
        weight: The winner's merge weight.
        norm: Euclidean norm of the vector over all tensors.
        relative_norm: ``norm`` over the base model's norm.
        applied_fraction: Part of the vector that survives rounding to the output dtype.
        n_tokens: Tokens trained on; None where it was not trained here. ``n_steps`` and ``learning_rate`` alike.
        own_base: Label of the base model it was trained from, where that is another one.
        own_base_repo: Its Hub repository.
        is_delta: Whether ``label`` is the vector itself and no checkpoint, so that no base is needed to add it.
        at_bound: Whether ``weight`` lies at an end of its search interval; set by ``build_report``.
    """

    name: str
    label: str
    repo: str | None
    dataset: str | None
    weight: float
    norm: float
    relative_norm: float
    applied_fraction: float
    n_tokens: int | None = None
    n_steps: int | None = None
    learning_rate: float | None = None
    own_base: str | None = None
    own_base_repo: str | None = None
    at_bound: Literal["low", "high"] | None = None
    revision: str | None = None
    dataset_repo: str | None = None
    dataset_revision: str | None = None
    is_delta: bool = False


@dataclass(frozen=True)
class RungFacts:
    """Dev samples of each task at one rung; ``top``: only the best so many trials took it, None for all."""

    n_samples: int
    top: int | None


@dataclass(frozen=True)
class GradientFacts:
    """The climb by gradients that gave warm starts: times value and slopes were computed, and their cost in trials."""

    n_evaluations: int
    sample_cost: float


@dataclass(frozen=True)
class SearchFacts:
    """How the winner was found.

    Attributes:
        options: The sampler's options, as stated to Optuna.
        intervals: Vector -> (low, high), the closed interval searched.
        objective: What was maximised, in words.
        best_value: The winner's objective at the last rung it took.
        n_adopted: Trials among ``n_trials`` that another study had scored.
        n_raced_out: Trials that a race stopped, so that they saw fewer samples.
        ended_flat: Whether the study ended early because its best no longer rose.
        objective_tasks: The dev tasks that were maximised; empty in reports that did not yet say.
        base_value: The base model's objective on the first rung; None where it was not scored.
        started: ISO 8601 time in UTC; ``finished`` alike.
    """

    sampler: str
    options: dict[str, Any]
    n_trials: int
    n_collapsed: int
    n_failed: int
    rungs: tuple[RungFacts, ...]
    objective: str
    intervals: dict[str, tuple[float, float]]
    best_trial: int
    best_value: float
    warm_starts: tuple[str, ...]
    started: str
    finished: str
    n_adopted: int = 0
    n_raced_out: int = 0
    ended_flat: bool = False
    gradient: GradientFacts | None = None
    objective_tasks: tuple[str, ...] = ()
    base_value: float | None = None


@dataclass(frozen=True)
class TrialFacts:
    """One trial of the study.

    Attributes:
        value: Its objective on the first rung, which all trials took: on the same samples, so comparable. Of a
            stopped trial the estimate.
        kind: "warm_start", "surrogate", "sampler" or "adopted" (scored in another study).
        state: What became of it on the first rung; "rejected" is by ``keep``, and so no candidate for the winner.
        weights: Its merge weights; empty in reports that did not yet hold them.
        stderr: Standard error of the paired difference of its objective to the base model's; None where there is none.
        baseline: The baseline that it is, as "single/ja"; None for any other.
    """

    number: int
    value: float
    kind: str
    state: Literal["scored", "rejected", "stopped", "collapsed"] = "scored"
    weights: dict[str, float] = field(default_factory=dict)
    stderr: float | None = None
    baseline: str | None = None


@dataclass(frozen=True)
class TaskFacts:
    """A task's primary metric, its direction, and how many samples every score of it stands on.

    Attributes:
        lighteval_task: Name of the stock lighteval task that it is, as "gsm8k|4"; None for any other task.
    """

    metric: str
    higher_is_better: bool
    n: int
    lighteval_task: str | None = None


@dataclass(frozen=True)
class ReportData:
    """One run in numbers.

    Attributes:
        dtype: Of the merged model's weights.
        tasks: Part -> task -> facts.
        scores: Part -> model -> task -> metric -> score. Dev scores of a task stand on the same samples for each
            model: the longest prefix that all of them were scored on.
        timings: Seconds by name, as ``train_s``, ``merge_s``, ``score_s``, ``total_s``.
        yaml: merge.yaml of the winner, for mergekit with this package's method.
        portable_yaml: The same merge for plain mergekit; None where there is none, and ``portable_reason`` says why.
        command: The command that makes this run again.
        trials: The study's trials in order; empty in reports that did not yet hold them.
        repo: Hub repository the merged model is meant for; None where the recipe names none. ``private``: whether only
            its owner is to see it.
        model_dir: Merged model, relative to the run folder; ``card_path`` alike. None where not written.
        analysis: Analysis -> what its file under analysis/ holds, for those that were made.
        relative_gains: Model -> part -> mean gain over the base model, in units of the base's own score on each task,
            over the tasks that both parts have; for the models that were scored on both.
        mixtures: ``data_mixture/optimised`` against ``data_mixture``, positive where the first is better; None where
            one of them is not trained.
    """

    name: str
    seed: int
    recipe_hash: str
    versions: dict[str, str]
    device: str
    dtype: str
    base: BaseModelFacts
    vectors: tuple[VectorFacts, ...]
    search: SearchFacts
    tasks: dict[Part, dict[str, TaskFacts]]
    scores: dict[Part, dict[str, dict[str, dict[str, Score]]]]
    comparison: Comparison
    timings: dict[str, float]
    yaml: str
    portable_yaml: str | None
    portable_reason: str | None
    command: str
    license: str
    language: tuple[str, ...]
    repo: str | None = None
    private: bool = True
    model_dir: str | None = None
    card_path: str | None = None
    trials: tuple[TrialFacts, ...] = ()
    analysis: dict[str, Any] = field(default_factory=dict)
    relative_gains: dict[str, dict[Part, float]] = field(default_factory=dict)
    mixtures: BaselineComparison | None = None

    def to_json(self) -> dict[str, Any]:
        return {"finished": True} | asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ReportData:
        """Read what ``to_json`` gave.

        Raises:
            RunFolderError: It is the report of a run that is not finished.
        """
        if data.get("finished") is False:
            raise RunFolderError(
                f"report.json is of a run that is not finished ({data.get('name')}); `mergekit-optimer report RUN` "
                "says what it lacks."
            )
        return TypeAdapter(cls).validate_python(data)
