"""A figure of the page: what it draws, what it says to who cannot see it, and the table of the same numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from mergekit_optimer.page import svg
from mergekit_optimer.page.canvas import WIDTH

Cell = str | int | float | None


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: Of its CSV, and of its place on the page.
        alt: One sentence with the numbers that the figure is about.
        caption: How it is to be read.
        body: SVG elements on a ground ``WIDTH`` wide and ``height`` high.
        header: Of the CSV; ``rows`` as long.
    """

    name: str
    title: str
    alt: str
    caption: str
    body: str
    height: float
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def svg(self) -> str:
        """The whole element, with its name and description for assistive programs."""
        named = svg.element("title", svg.plain(self.title), id=f"{self.name}-title")
        told = svg.element("desc", svg.plain(self.alt), id=f"{self.name}-desc")
        return svg.element(
            "svg",
            named + told + self.body,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {svg.number(WIDTH)} {svg.number(self.height)}",
            role="img",
            aria_labelledby=f"{self.name}-title",
            aria_describedby=f"{self.name}-desc",
        )

    @property
    def csv(self) -> str:
        """The numbers that the figure shows, unrounded."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([_cell(value) for value in row] for row in self.rows)
        return out.getvalue()


def rows_of(rows: Sequence[Sequence[Cell]]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(row) for row in rows)


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)
