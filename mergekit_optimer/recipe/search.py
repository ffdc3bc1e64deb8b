"""The search section of recipe.yaml: sampler, intervals, warm starts, rungs and objective."""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from mergekit_optimer.recipe.sources import Finite, Name, Positive, Section


class SamplerSpec(Section):
    """Optuna's sampler, every option of TPE stated: Optuna 5 changed its defaults.

    ``assist: quadratic``, the default of tpe, lets a quadratic surrogate make 3 of 4 proposals after the warm starts;
    ``{name: tpe, assist: none}`` is the paper's search.
    """

    name: Literal["tpe", "gp", "cmaes", "random", "qmc"] = "tpe"
    assist: Literal["quadratic", "none"] = "quadratic"
    multivariate: bool = True
    constant_liar: bool = False
    n_startup_trials: Positive = 10

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """A name alone is a sampler; only tpe is assisted where nothing is said."""
        if isinstance(value, str):
            value = {"name": value}
        if isinstance(value, dict) and value.get("name", "tpe") != "tpe":
            return {"assist": "none"} | value
        return value

    @model_validator(mode="after")
    def _assists_tpe(self) -> Self:
        if self.assist != "none" and self.name != "tpe":
            raise ValueError(f"assist: {self.assist} belongs to tpe, not to {self.name}")
        return self


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
    """What the search maximises, from the primary metrics of the dev tasks (lower-is-better ones negated).

    ``pareto`` maximises each of its tasks by itself: the study has a front of trials none of which is worse than
    another on all tasks, and no one best.
    """

    mean: list[Name] | None = None
    weighted: dict[Name, Finite] | None = None
    # Left out of the canonical recipe where it is not given: studies made before there was such a key can go on.
    pareto: list[Name] | None = Field(default=None, exclude_if=operator.not_)
    gain_over_base: bool = False
    keep: dict[Name, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if sum(form is not None for form in (self.mean, self.weighted, self.pareto)) != 1:
            raise ValueError("give one of mean, weighted, pareto")
        if not self.task_weights:
            raise ValueError("names no task")
        if self.pareto is not None and len(self.task_weights) == 1:
            raise ValueError(
                f"pareto weighs tasks against each other and has {self.pareto[0]} only; name a second one, or write "
                f"mean: [{self.pareto[0]}]"
            )
        return self

    @property
    def task_weights(self) -> dict[str, float]:
        """Weight of each task in the objective's one number; a mean gives each 1/n, and so does a Pareto front."""
        named = self.mean if self.mean is not None else self.pareto
        if named is not None:
            return {name: 1.0 / len(set(named)) for name in sorted(set(named))}
        return dict(self.weighted or {})

    @property
    def pareto_tasks(self) -> list[str]:
        """The tasks that are maximised each by itself, in name order; none where one number is."""
        return sorted(set(self.pareto or ()))

    @property
    def task_names(self) -> set[str]:
        return set(self.task_weights) | set(self.keep)


WarmStart = Literal["zero", "uniform_average", "half", "sum", "singles", "gradient"]

_WARM_STARTS: list[WarmStart] = ["zero", "uniform_average", "half", "singles"]
# A race compares with the incumbent once this many samples of each task are scored .
RACE_FROM = 100


def _weights_form(value: Any) -> str:
    """Tell one interval for all vectors from an interval per vector."""
    if isinstance(value, WeightInterval) or (isinstance(value, dict) and set(value) <= {"low", "high"}):
        return "interval"
    return "per_vector"


WeightSpace = Annotated[
    Annotated[WeightInterval, Tag("interval")] | Annotated[dict[Name, WeightInterval], Tag("per_vector")],
    Discriminator(_weights_form),
]


def _plain_for_pareto(value: dict[str, Any]) -> dict[str, Any]:
    """A Pareto search is not assisted where nothing is said of it: the surrogate is of one number."""
    objective, sampler = value.get("objective"), value.get("sampler", {})
    if not isinstance(objective, dict) or objective.get("pareto") is None:
        return value
    if isinstance(sampler, str):
        sampler = {"name": sampler}
    # What is no sampler is told by its own check.
    return value | {"sampler": {"assist": "none"} | sampler} if isinstance(sampler, dict) else value


class SearchSection(Section):
    """The Optuna study.

    Attributes:
        n_trials: Trials to run; those taken from a finished study (``search --from``) are not counted.
        race: Score in chunks and stop a trial that is clearly worse than the incumbent on the same samples.
        until_flat: Stop before ``n_trials`` once the best has not risen for a while.
    """

    sampler: SamplerSpec = SamplerSpec()
    n_trials: Positive = 100
    weights: WeightSpace = WeightInterval(low=-0.5, high=1.25)
    warm_starts: list[WarmStart] = Field(default=_WARM_STARTS)
    rungs: list[Rung] = Field(default=[Rung(n_samples=100), Rung(n_samples=300, top=3)], min_length=1)
    race: bool = False
    until_flat: bool = False
    objective: Objective

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """``warm_start: gradient`` adds it to the warm starts; a race has one rung, of all its samples."""
        if not isinstance(value, dict):
            return value
        value = _plain_for_pareto(dict(value))
        if "warm_start" in value:
            extra = value.pop("warm_start")
            if extra != "gradient":
                raise ValueError(f"warm_start: {extra} is unknown; write warm_start: gradient, or a list warm_starts")
            starts = value.get("warm_starts", _WARM_STARTS)
            # What is no list is told by its own check.
            if isinstance(starts, list) and extra not in starts:
                value["warm_starts"] = [*starts, extra]
        if value.get("race") is True:
            value.setdefault("rungs", [{"n_samples": 300}])
        return value

    @model_validator(mode="after")
    def _race_has_room(self) -> Self:
        if self.race and self.rungs[0].n_samples <= RACE_FROM:
            raise ValueError(
                f"race: a trial is compared after {RACE_FROM} samples, so the first rung needs more; "
                "write rungs: [{n_samples: 300}]"
            )
        return self

    @model_validator(mode="after")
    def _pareto_stands_alone(self) -> Self:
        if self.objective.pareto is None:
            return self
        if self.sampler.name == "cmaes":
            raise ValueError("cmaes follows one number, and objective: {pareto: ...} has several; use tpe")
        if self.sampler.assist != "none":
            raise ValueError(
                f"assist: {self.sampler.assist} fits one number, and objective: {{pareto: ...}} has several; write "
                "sampler: {name: tpe, assist: none}"
            )
        for key in ("race", "until_flat"):
            if getattr(self, key):
                raise ValueError(
                    f"{key} compares with the one best trial, and objective: {{pareto: ...}} has a front of them; "
                    f"write {key}: false"
                )
        return self

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
