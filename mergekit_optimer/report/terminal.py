"""ReportData -> what the terminal shows. Draws; the words and numbers come from ``tables`` and ``words``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergekit_optimer.report.data import ReportData
from mergekit_optimer.report.tables import (
    Table,
    dev_table,
    difference_table,
    gap_table,
    held_out_table,
    timings_table,
    weights_table,
)
from mergekit_optimer.report.words import limits, mean_sentence, verdict_sentence

if TYPE_CHECKING:
    from rich.console import Group, RenderableType


# A score and its error go side by side where a line has room for five tasks, else below each other.
_WIDE = 110


def render_table(report: ReportData, width: int = 140) -> Group:
    """Return the report as a rich renderable: held-out scores, weights, verdict, then dev apart, times and places.

    Args:
        width: Columns of the terminal.
    """
    from rich.console import Group
    from rich.text import Text

    def draw(table: Table, title: str) -> RenderableType:
        return _draw(table, title, wide=width >= _WIDE)

    weights, differences = weights_table(report), difference_table(report)
    parts: list[RenderableType] = [
        draw(held_out_table(report), "Held-out scores"),
        # The card has the differences task by task, and the rest of what is known of each vector.
        draw(_columns(differences, 0, -2, -1), "Winner minus baseline"),
        Text(mean_sentence(report), style="dim"),
        draw(_columns(weights, 0, 1, 2, 3), "Merge weights of the winner"),
        Text(verdict_sentence(report) + "\n", style="bold"),
        draw(dev_table(report), "Dev scores (they chose the winner; not comparable with the above)"),
    ]
    gaps = gap_table(report)
    if gaps.rows:
        parts.append(draw(gaps, "Held-out minus dev"))
    parts += [Text(f"• {limit}", style="dim") for limit in limits(report)]
    parts.append(draw(timings_table(report), "Time"))
    places = (("merged model", report.model_dir), ("card", report.card_path))
    parts += [Text(f"{what}: {place}") for what, place in places if place is not None]
    return Group(*parts)


def _columns(table: Table, *indices: int) -> Table:
    """Some columns of a table."""
    return Table(tuple(table.header[i] for i in indices), tuple(tuple(row[i] for i in indices) for row in table.rows))


def _draw(table: Table, title: str, wide: bool) -> RenderableType:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    header = [column.partition(": ") for column in table.header]
    facts = {fact for _, colon, fact in header if colon}
    if len(facts) == 1:
        # One metric and n for all tasks is said once.
        title += f": {facts.pop()}"
        header = [(name, "", "") for name, _, _ in header]
    drawn = RichTable(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for index, (name, _, fact) in enumerate(header):
        # Text, not markup: a label in brackets is no style. A name is never cut; the task stands above its metric.
        heading = Text(f"{name}\n{fact.replace(' ', chr(10), 1)}" if fact else name)
        drawn.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True, overflow="ignore")
    for row in table.rows:
        drawn.add_row(*(Text(cell if wide else cell.replace(" ± ", "\n± ").replace(" (", "\n(")) for cell in row))
    return drawn
