"""What the page is made of: a run's numbers, finished or not, and the sections that show them."""

from __future__ import annotations

from dataclasses import dataclass, field

from mergekit_optimer.page.analyses import Analyses
from mergekit_optimer.page.figure import Figure
from mergekit_optimer.report import ReportData, TrialFacts
from mergekit_optimer.report.tables import Table


@dataclass(frozen=True)
class PageData:
    """A run as far as it went.

    Attributes:
        report: The finished comparison; None where there is none of the winner that the run has now.
        objective: What the search maximises, in words.
        n_samples: Dev samples of each task that every trial's value stands on.
        base_value: The base model's objective on these; None where it was not scored.
        winner: Number and weights of the winner; None while there is none.
        stages: Stage -> seconds, for those that are done.
        commands: Section -> the command that makes what it lacks.
        reasons: Section -> what else must be for that command; none where nothing must.
        note: What the reader must know before anything else; empty for nothing.
    """

    name: str
    report: ReportData | None
    trials: tuple[TrialFacts, ...]
    objective: str
    n_samples: int
    base_value: float | None
    winner: int | None
    weights: dict[str, float]
    analyses: Analyses
    stages: dict[str, float]
    commands: dict[str, str]
    reasons: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class ShownTable:
    """A table with its heading; one that is not sortable is a list of facts, one that is folded opens on a click."""

    title: str
    table: Table
    note: str = ""
    sortable: bool = True
    folded: bool = False


@dataclass(frozen=True)
class Code:
    """A text to copy, folded unless ``is_open``."""

    title: str
    text: str
    is_open: bool = False


@dataclass(frozen=True)
class Gap:
    """What there is nothing of yet, why a command alone may not do, and the command."""

    title: str
    why: str
    command: str


@dataclass(frozen=True)
class Tile:
    """A number of the page's head."""

    name: str
    value: str
    error: str = ""
    more: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    title: str
    sentences: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[ShownTable, ...] = ()
    remarks: tuple[str, ...] = ()
    codes: tuple[Code, ...] = ()
