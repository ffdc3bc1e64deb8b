"""Charts with one row a name: bars from zero, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergekit_optimer.page import svg
from mergekit_optimer.page.canvas import LETTER, WIDTH, Ground, Key, across, cut, finish, room_for
from mergekit_optimer.page.scales import Scale, extent

_ROW = 26.0
# Room at the end of a bar for its number.
_NUMBER = 54.0


@dataclass(frozen=True)
class Bar:
    """A value from zero; ``group``: an index into the chart's legend."""

    name: str
    value: float
    said: str
    class_: str


@dataclass(frozen=True)
class Span:
    """A difference with its interval, and what stands beside it."""

    name: str
    value: float
    low: float
    high: float
    said: str
    class_: str


def bars(rows: Sequence[Bar], x_name: str, keys: Sequence[Key] = ()) -> tuple[str, float]:
    """Horizontal bars, each with its number."""
    place = _place(rows, right=12.0)
    low, high = min(0.0, *(row.value for row in rows)), max(0.0, *(row.value for row in rows))
    start = place.left + (_NUMBER if low < 0 else 0.0)
    x = Scale(low, high if high > low else 1.0, start, place.right - (_NUMBER if high > 0 else 0.0))
    zero = x(0.0)
    parts = [across(place, x, x_name)]
    for index, row in enumerate(rows):
        top = place.top + index * _ROW
        end = x(row.value)
        parts.append(_name(row.name, place, top))
        parts.append(svg.box(zero, top + 5, end - zero, _ROW - 10, f"bar {row.class_}", f"{row.name}: {row.said}"))
        beside, anchor = (end + 5, "start") if row.value >= 0 else (end - 5, "end")
        parts.append(svg.words(beside, top + _ROW / 2 + 4, row.said, "value", anchor))
    parts.append(svg.line(zero, place.top, zero, place.bottom, "zero"))
    return finish("".join(parts), keys, place.bottom + 40)


def spans(rows: Sequence[Span], x_name: str, keys: Sequence[Key] = ()) -> tuple[str, float]:
    """Differences with their intervals and a line at zero; the numbers stand at the right."""
    beside = LETTER * max((len(row.said) for row in rows), default=0) + 8
    place = _place(rows, right=beside + 6)
    low, high = extent([bound for row in rows for bound in (row.low, row.high, 0.0)])
    x = place.x(low, high)
    parts = [across(place, x, x_name, x.ticks(4))]
    parts.append(svg.line(x(0.0), place.top, x(0.0), place.bottom, "zero"))
    for index, row in enumerate(rows):
        middle = place.top + index * _ROW + _ROW / 2
        parts.append(_name(row.name, place, middle - _ROW / 2))
        parts.append(svg.line(x(row.low), middle, x(row.high), middle, f"stroke {row.class_}"))
        for end in (row.low, row.high):
            parts.append(svg.line(x(end), middle - 4, x(end), middle + 4, f"stroke {row.class_}"))
        parts.append(svg.mark("circle", x(row.value), middle, f"dot {row.class_}", f"{row.name}: {row.said}", 4.2))
        parts.append(svg.words(WIDTH - 6, middle + 4, row.said, "value", "end"))
    return finish("".join(parts), keys, place.bottom + 40)


def _place(rows: Sequence[Bar] | Sequence[Span], right: float) -> Ground:
    left = room_for([row.name for row in rows])
    return Ground(left, WIDTH - right, 6.0, 6.0 + _ROW * max(1, len(rows)))


def _name(name: str, place: Ground, top: float) -> str:
    shown = svg.plain(cut(name, place.left))
    text = shown if shown == svg.plain(name) else shown + svg.tip(name)
    return svg.element(
        "text", text, x=place.left - 7, y=top + _ROW / 2 + 4, class_="label", text_anchor="end"
    )  # fmt: skip
