"""Charts of cells: a matrix of names against names, and a plane over two numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergekit_optimer.page import svg
from mergekit_optimer.page.canvas import LETTER, WIDTH, Ground, Key, axes, cut, finish, room_for
from mergekit_optimer.page.curves import Cloud
from mergekit_optimer.page.scales import short

# A fuller colour would swallow the number in the cell.
_FULLEST = 0.62
_MOST_NUMBERS = 10


def matrix(names: Sequence[str], values: Sequence[Sequence[float]]) -> tuple[str, float]:
    """Values between -1 and 1 of each name with each: one colour for more, another for less than 0."""
    left = room_for(names, most=110.0)
    side = min(84.0, (WIDTH - left - 12) / max(1, len(names)))
    parts = []
    for column, name in enumerate(names):
        at = left + (column + 0.5) * side
        turned = LETTER * len(name) > side - 4
        shown = cut(name, 90.0 if turned else 400.0)
        more = {"transform": f"rotate(-40 {svg.number(at)} {svg.number(70)})"} if turned else {}
        parts.append(svg.words(at, 70, shown, "label", "start" if turned else "middle", **more))
    top = 78.0
    for row, name in enumerate(names):
        y = top + row * side
        parts.append(svg.words(left - 7, y + side / 2 + 4, cut(name, left), "label", "end"))
        for column, other in enumerate(names):
            value, x = values[row][column], left + column * side
            class_ = "cell more" if value >= 0 else "cell less"
            said = f"{name} and {other}: {value:.4f}"
            strength = f"{_FULLEST * min(1.0, abs(value)):.3f}"
            parts.append(svg.box(x, y, side - 2, side - 2, class_, said, fill_opacity=strength))
            if len(names) <= _MOST_NUMBERS:
                parts.append(svg.words(x + side / 2 - 1, y + side / 2 + 3, f"{value:.2f}", "incell", "middle"))
    crop = 0.0 if any(LETTER * len(name) > side - 4 for name in names) else 54.0
    body = svg.element("g", "".join(parts), transform=f"translate(0 {svg.number(-crop)})")
    return body, top + side * len(names) + 8 - crop


@dataclass(frozen=True)
class Field:
    """A number over a grid of two: ``values`` has a row for each of ``ys``."""

    x_name: str
    y_name: str
    xs: Sequence[float]
    ys: Sequence[float]
    values: Sequence[Sequence[float]]


def field(over: Field, clouds: Sequence[Cloud], name: str) -> tuple[str, float]:
    """The field in shades of one colour, with points on it and the shades' scale beside."""
    height = 330.0
    place = Ground(54.0, WIDTH - 66.0, 12.0, height - 40.0)
    half_x, half_y = _half_step(over.xs), _half_step(over.ys)
    x = place.x(min(over.xs) - half_x, max(over.xs) + half_x)
    y = place.y(min(over.ys) - half_y, max(over.ys) + half_y)
    flat = [value for row in over.values for value in row]
    low, high = min(flat), max(flat)
    parts = []
    for at_y, row in zip(over.ys, over.values, strict=True):
        for at_x, value in zip(over.xs, row, strict=True):
            share = 0.5 if high == low else (value - low) / (high - low)
            corner, far = (x(at_x - half_x), y(at_y + half_y)), (x(at_x + half_x), y(at_y - half_y))
            said = f"{over.x_name} {at_x:.3g}, {over.y_name} {at_y:.3g}: {value:.4f}"
            size = far[0] - corner[0], far[1] - corner[1]
            shade = f"{0.04 + 0.86 * share:.3f}"
            parts.append(svg.box(*corner, *size, "cell more", said, fill_opacity=shade))
    # The grid's lines would cut the cells: axes without them.
    drawn = axes(place, x, y, f"weight of {over.x_name}", f"weight of {over.y_name}").replace(
        'class="grid"', 'class="no"'
    )
    parts.append(drawn)
    for cloud in clouds:
        for index, (a, b) in enumerate(cloud.points):
            if x.low <= a <= x.high and y.low <= b <= y.high:
                said = cloud.tips[index] if cloud.tips else cloud.name
                parts.append(svg.mark(cloud.shape, x(a), y(b), f"dot {cloud.class_}", said, cloud.size))
    parts.append(_shades(place, low, high, name))
    keys = [Key(cloud.shape, cloud.class_, cloud.name) for cloud in clouds if cloud.points]
    return finish("".join(parts), keys, height)


def _half_step(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / max(1, len(values) - 1) / 2 or 0.5


def _shades(place: Ground, low: float, high: float, name: str) -> str:
    steps, left = 24, place.right + 12
    tall = (place.bottom - place.top) / steps
    parts = []
    for step in range(steps):
        shade = f"{0.04 + 0.86 * (1 - step / (steps - 1)):.3f}"
        parts.append(svg.box(left, place.top + step * tall, 10, tall, "cell more", "", fill_opacity=shade))
    for value, at in ((high, place.top + 9), (low, place.bottom)):
        parts.append(svg.words(left + 14, at, short(value), "tick"))
    middle = (place.top + place.bottom) / 2
    turned = f"rotate(90 {svg.number(left + 20)} {svg.number(middle)})"
    parts.append(svg.words(left + 20, middle, name, "name", "middle", transform=turned))
    return "".join(parts)
