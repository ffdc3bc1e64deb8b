"""What the files under analysis/ hold, as the page reads them: one frozen type a file. Draws nothing.

Lists are row-aligned and all floats finite. A key that is not listed here is left alone: its writer may know more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from mergekit_optimer.errors import RunFolderError

Cosines = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Size:
    """How large one vector is; ``norms`` by kind of module."""

    norm: float
    relative_norm: float
    applied_fraction: float
    norms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Geometry:
    """Norms and cosines of the pool: over all parameters ("total"), by kind of module, and by layer ("0", "1", ...)."""

    vectors: dict[str, Size]
    cosines: dict[str, Cosines]
    cosines_by_layer: dict[str, Cosines] = field(default_factory=dict)
    norms_by_layer: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """A checkpoint on the way: its cosine with the whole way, its projection as a share of it, what lies off it."""

    step: int
    tokens: int
    cosine: float
    projection: float
    residual: float


@dataclass(frozen=True)
class Way:
    points: list[Point]


@dataclass(frozen=True)
class Meaning:
    """What a weight means in training time."""

    slope: float
    sentence: str


@dataclass(frozen=True)
class Trajectory:
    """How straight each training was."""

    vectors: dict[str, Way]
    meaning: dict[str, Meaning] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """The objective over one weight; ``stderr``: of the paired difference to the winner."""

    weights: list[float]
    objective: list[float]
    stderr: list[float]


@dataclass(frozen=True)
class Plane:
    """The objective over two weights: a row per ``weights_y``."""

    x: str
    y: str
    weights_x: list[float]
    weights_y: list[float]
    objective: list[list[float]]


@dataclass(frozen=True)
class Reach:
    """Where a weight loses less than one standard error; None: beyond what was scored."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class Landscape:
    """The objective around the winner."""

    slices: dict[str, Slice]
    winner: dict[str, float]
    n_samples: int
    objective_words: str
    plane: Plane | None = None
    sharpness: dict[str, Reach] = field(default_factory=dict)


@dataclass(frozen=True)
class Effect:
    """A paired difference with its interval."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Brought:
    """Winner minus winner without the vector; positive where the vector helps."""

    weight: float
    tasks: dict[str, Effect]
    mean: Effect


@dataclass(frozen=True)
class Attribution:
    """What each vector brings on the held-out set, and, another thing, how much the study's objective moved with it."""

    vectors: dict[str, Brought]
    importances: dict[str, float] | None
    importances_method: str
    n_resamples: int


@dataclass(frozen=True)
class HeldOut:
    value: float
    stderr: float
    n: int


@dataclass(frozen=True)
class ObjectiveRow:
    """One study: its objective in words, the weights it chose, and what they score."""

    name: str
    objective: str
    weights: dict[str, float]
    dev: float
    held_out: dict[str, HeldOut]
    n_adopted: int
    n_run: int


@dataclass(frozen=True)
class TaskDirection:
    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class Objectives:
    """Several studies over one pool."""

    rows: list[ObjectiveRow]
    tasks: dict[str, TaskDirection]


@dataclass(frozen=True)
class ParetoTrial:
    number: int
    weights: dict[str, float]
    values: dict[str, float]


@dataclass(frozen=True)
class Pareto:
    """Trials of a study with several targets, and those of them that no other beats on all."""

    tasks: list[str]
    directions: dict[str, Literal["max", "min"]]
    front: list[ParetoTrial]
    trials: list[ParetoTrial]


@dataclass(frozen=True)
class Spent:
    tokens: float
    seconds: float
    flops: float


@dataclass(frozen=True)
class Cost:
    """What pool and search cost, what one mixture costs, and what searching mixtures by training each would.

    No ratio is there where a part of ours is not known.
    """

    pool: Spent
    search: Spent
    mixture: Spent | None
    mixtures_searched: int
    mixtures_total: Spent
    ratio_seconds: float | None
    ratio_flops: float | None
    formula: str
    parameters: int


@dataclass(frozen=True)
class LeftOut:
    """A dataset that the mixture leaves out, and what its weight says."""

    weight: float
    meaning: str


@dataclass(frozen=True)
class Mixture:
    """The winner's weights as shares of a data mixture."""

    shares: dict[str, float]
    left_out: dict[str, LeftOut]
    tokens: dict[str, int]
    recipe: str


@dataclass(frozen=True)
class Analyses:
    """The analyses of a run; None where one was not made."""

    geometry: Geometry | None = None
    trajectory: Trajectory | None = None
    landscape: Landscape | None = None
    attribution: Attribution | None = None
    objectives: Objectives | None = None
    pareto: Pareto | None = None
    cost: Cost | None = None
    mixture: Mixture | None = None


# The names of the files, without .json, in the order of the page.
ANALYSES = tuple(one.name for one in fields(Analyses))


def read_analyses(data: Mapping[str, Any]) -> Analyses:
    """Check and gather what the analysis files hold: name -> content.

    Raises:
        RunFolderError: A file does not hold what its name says.
    """
    for name, content in data.items():
        try:
            TypeAdapter(Analyses).validate_python({name: content})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"][1:])
            raise RunFolderError(
                f"analysis/{name}.json is damaged ({place}: {first['msg']}); delete it and make it anew."
            ) from error
    return TypeAdapter(Analyses).validate_python(dict(data))
