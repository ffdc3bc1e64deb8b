"""A measured ratio and its bound; the table and bench.json. Measures nothing."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One row of the benchmark.

    Attributes:
        name: What was measured, against what.
        value: The ratio; None where there is none, which ``detail`` explains.
        at_least: Smallest value that is wanted; ``at_most`` likewise. Neither: for information.
        detail: The numbers behind the ratio, with their units.
    """

    name: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None
    detail: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the bound is kept; None where there is none. What was not measured is not reached."""
        if self.at_least is None and self.at_most is None:
            return None
        if self.value is None:
            return False
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    def to_json(self) -> dict[str, Any]:
        """The row as bench.json holds it; a bound that is not there is left out."""
        data = asdict(self) | {"reached": self.reached}
        return {key: value for key, value in data.items() if value is not None or key in ("value", "reached")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Figure:
        return cls(**{key: value for key, value in data.items() if key != "reached"})


def render(figures: Sequence[Figure]) -> str:
    """The figures as a table for a terminal or, as it is, a README."""
    rows = [("what", "value", "wanted", "reached"), *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    details = [f"{figure.name}: {figure.detail}" for figure in figures if figure.detail]
    return "\n".join([*lines, "", *details])


def _row(figure: Figure) -> tuple[str, str, str, str]:
    value = "-" if figure.value is None else f"{figure.value:.3g}"
    bounds = [f">= {figure.at_least:g}"] if figure.at_least is not None else []
    bounds += [f"<= {figure.at_most:g}"] if figure.at_most is not None else []
    reached = {True: "yes", False: "no", None: ""}[figure.reached]
    return figure.name, value, " and ".join(bounds), reached


def write(figures: Sequence[Figure], path: Path) -> None:
    """Write bench.json: the list of figures."""
    text = json.dumps([figure.to_json() for figure in figures], indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> list[Figure]:
    return [Figure.from_json(data) for data in json.loads(path.read_text(encoding="utf-8"))]


def update(known: Sequence[Figure], measured: Sequence[Figure]) -> list[Figure]:
    """Put newly measured figures in the place of those of the same name, new names at the end."""
    fresh = {figure.name: figure for figure in measured}
    kept = [fresh.pop(figure.name, figure) for figure in known]
    return kept + list(fresh.values())


def machine() -> str:
    """One line on what the figures were measured with."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.machine()
    names = ("torch", "transformers", "lighteval", "mergekit", "optuna")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return f"{len(os.sched_getaffinity(0))} cores of {processor}, Python {platform.python_version()}, {versions}"


def least(run: Callable[[], float], n: int) -> float:
    """The smallest of n measurements: what the work costs where nothing else disturbs it."""
    return min(run() for _ in range(n))
