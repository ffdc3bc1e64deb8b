"""A figure of the page: what it draws, what it says to who cannot see it, and the table of the same numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from mergekit_optimer.page import svg
from mergekit_optimer.page.canvas import WIDTH

Cell = str | int | float | None
_FONTS = "system-ui, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"


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
        """The whole element, with its name and description for assistive programs; the page has its style."""
        return self._element()

    def alone(self, style: str) -> str:
        """The figure as a file of its own, on a ground that is light or dark as its reader's screen is.

        Args:
            style: The figures' style sheet; it goes into the file, which so needs no other.
        """
        sheet = svg.element("style", f"{style}svg {{ font-family: {_FONTS}; }}\n")
        ground = svg.element("rect", width="100%", height="100%", style="fill: var(--card)")
        return self._element(sheet + ground, width=WIDTH, height=float(self.height)) + "\n"

    def _element(self, before: str = "", **size: float) -> str:
        named = svg.element("title", svg.plain(self.title), id=f"{self.name}-title")
        told = svg.element("desc", svg.plain(self.alt), id=f"{self.name}-desc")
        return svg.element(
            "svg",
            named + told + before + self.body,
            xmlns="http://www.w3.org/2000/svg",
            **size,
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
