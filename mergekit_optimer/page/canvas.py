"""A chart's ground: its size, margins, axes with ticks and names, and the legend below. Draws no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergekit_optimer.page import svg
from mergekit_optimer.page.scales import Scale, tick_text

# Small on purpose: a figure fills half a desktop page or a whole phone, and its words stay readable there.
WIDTH = 440.0
HEIGHT = 280.0
# A letter of the labels is about so wide.
LETTER = 7.0
_LEGEND_ROW = 17.0


@dataclass(frozen=True)
class Key:
    """An entry of the legend: a mark, "line", "dash" or "band" in a class, and its name."""

    shape: str
    class_: str
    name: str


@dataclass(frozen=True)
class Ground:
    """Where the data lie within the figure."""

    left: float
    right: float
    top: float
    bottom: float

    def x(self, low: float, high: float) -> Scale:
        return Scale(low, high, self.left, self.right)

    def y(self, low: float, high: float) -> Scale:
        return Scale(low, high, self.bottom, self.top)


def ground(left: float = 54.0, top: float = 12.0, right: float = 12.0, height: float = HEIGHT) -> Ground:
    """The place of the data where the vertical axis needs so much room for its labels."""
    return Ground(left, WIDTH - right, top, height - 40.0)


def room_for(names: Sequence[str], least: float = 40.0, most: float = 170.0) -> float:
    """Width that the longest of some names needs beside an axis."""
    return min(most, max(least, LETTER * max((len(name) for name in names), default=0) + 14))


def cut(name: str, room: float) -> str:
    """A name cut to what fits; the whole one is in the tip and the CSV."""
    letters = max(3, int((room - 12) / LETTER))
    return name if len(name) <= letters else name[: letters - 1] + "…"


def axes(place: Ground, x: Scale, y: Scale, x_name: str, y_name: str, x_ticks: Sequence[float] | None = None) -> str:
    """Grid, ticks and names of both axes; the vertical one's name stands along it."""
    parts = [across(place, x, x_name, x_ticks, grid=False)]
    ticks = y.ticks()
    for tick in ticks:
        at = y(tick)
        parts.append(svg.line(place.left, at, place.right, at, "grid"))
        parts.append(svg.words(place.left - 6, at + 4, tick_text(tick, ticks), anchor="end"))
    middle = (place.top + place.bottom) / 2
    turned = f"rotate(-90 11 {svg.number(middle)})"
    parts.append(svg.words(11, middle, y_name, "name", "middle", transform=turned))
    return "".join(parts)


def across(place: Ground, x: Scale, name: str, shown: Sequence[float] | None = None, grid: bool = True) -> str:
    """Ticks and name of the horizontal axis."""
    ticks = list(shown) if shown is not None else x.ticks()
    parts = [svg.line(place.left, place.bottom, place.right, place.bottom, "axis")]
    for tick in ticks:
        at = x(tick)
        parts.append(
            svg.line(at, place.top if grid else place.bottom, at, place.bottom + 4, "grid" if grid else "axis")
        )
        parts.append(svg.words(at, place.bottom + 17, tick_text(tick, ticks), anchor="middle"))
    parts.append(svg.words((place.left + place.right) / 2, place.bottom + 34, name, "name", "middle"))
    return "".join(parts)


def legend(keys: Sequence[Key], top: float) -> tuple[str, float]:
    """The legend in rows as wide as the figure, and the height it takes."""
    parts, x, y = [], 8.0, top + 12
    for key in keys:
        width = 26 + LETTER * len(key.name)
        if x > 8 and x + width > WIDTH - 4:
            x, y = 8.0, y + _LEGEND_ROW
        if key.shape in ("line", "dash"):
            parts.append(svg.line(x, y - 4, x + 16, y - 4, f"stroke {key.class_}{' dash' * (key.shape == 'dash')}"))
        elif key.shape == "band":
            parts.append(svg.box(x, y - 9, 16, 10, f"band {key.class_}"))
        else:
            parts.append(svg.mark(key.shape, x + 8, y - 4, f"dot {key.class_}"))
        parts.append(svg.words(x + 21, y, key.name, "key"))
        x += width + 8
    return "".join(parts), (y - top + 8 if keys else 0.0)


def finish(body: str, keys: Sequence[Key] = (), height: float = HEIGHT) -> tuple[str, float]:
    """The inside of a figure with its legend, and its whole height."""
    drawn, more = legend(keys, height)
    return body + drawn, height + more
