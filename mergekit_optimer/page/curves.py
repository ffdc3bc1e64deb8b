"""Charts of two numeric axes: curves with bands, points, and levels to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from mergekit_optimer.page import svg
from mergekit_optimer.page.canvas import HEIGHT, LETTER, Ground, Key, axes, finish, ground
from mergekit_optimer.page.scales import Scale, extent

Dots = list[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """A named curve; ``band``: (x, low, high) around it. Steps hold a value until the next."""

    name: str
    class_: str
    points: Dots
    band: list[tuple[float, float, float]] = field(default_factory=list)
    is_step: bool = False
    dash: bool = False
    marks: str = ""


@dataclass(frozen=True)
class Cloud:
    """Points of one kind, each with what its tip says."""

    name: str
    class_: str
    shape: str
    points: Dots
    tips: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    size: float = 3.6


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    name: str
    value: float
    class_: str = "muted"


@dataclass(frozen=True)
class Chart:
    """What a chart shows. ``x_range`` and ``y_range``: None takes what the data span.

    Attributes:
        whole_x: Whether the horizontal axis counts something.
        diagonal: Whether to draw x = y.
        y_low: What lies below is drawn at the lower edge; None for nothing.
    """

    x_name: str
    y_name: str
    curves: Sequence[Curve] = ()
    clouds: Sequence[Cloud] = ()
    levels: Sequence[Level] = ()
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    whole_x: bool = False
    diagonal: bool = False
    height: float = HEIGHT


def draw(chart: Chart) -> tuple[str, float]:
    """The chart as SVG elements, and its height with the legend."""
    place = ground(height=chart.height, right=14.0)
    xs = [x for points in _all_points(chart) for x, _ in points]
    x_range = chart.x_range or extent(xs, 0.03)
    y_range = chart.y_range or extent(_heights(chart))
    x, y = place.x(*x_range), place.y(*y_range)
    ticks = x.ticks(6)
    if chart.whole_x:
        ticks = [tick for tick in ticks if tick == int(tick)]
    parts = [axes(place, x, y, chart.x_name, chart.y_name, ticks)]
    if chart.diagonal:
        parts.append(_diagonal(x, y))
    parts += [_band(curve, x, y) for curve in chart.curves]
    parts += [_level(level, place, y) for level in chart.levels]
    parts += [_curve(curve, x, y) for curve in chart.curves]
    parts += [_cloud(cloud, x, y) for cloud in chart.clouds]
    parts.append(_labels(chart.clouds, place, x, y))
    return finish("".join(parts), _keys(chart), chart.height)


def _all_points(chart: Chart) -> list[Dots]:
    return [curve.points for curve in chart.curves] + [cloud.points for cloud in chart.clouds]


def _heights(chart: Chart) -> list[float]:
    found = [y for points in _all_points(chart) for _, y in points] + [level.value for level in chart.levels]
    for curve in chart.curves:
        found += [bound for _, low, high in curve.band for bound in (low, high)]
    return found


def _within(value: float, scale: Scale) -> float:
    """The place of a value; what is outside stands at the edge."""
    return scale(min(max(value, scale.low), scale.high))


def _band(curve: Curve, x: Scale, y: Scale) -> str:
    if not curve.band:
        return ""
    upper = _stepped([(x(at), _within(high, y)) for at, _, high in curve.band], curve.is_step)
    lower = _stepped([(x(at), _within(low, y)) for at, low, _ in curve.band], curve.is_step)
    return svg.polygon(upper + lower[::-1], f"band {curve.class_}")


def _curve(curve: Curve, x: Scale, y: Scale) -> str:
    points = [(x(a), _within(b, y)) for a, b in curve.points]
    drawn = svg.polyline(_stepped(points, curve.is_step), f"stroke {curve.class_}{' dash' if curve.dash else ''}")
    if curve.marks:
        for (a, b), (at_x, at_y) in zip(curve.points, points, strict=True):
            drawn += svg.mark(curve.marks, at_x, at_y, f"dot {curve.class_}", f"{curve.name}: {a:.4g}, {b:.4g}", 3.0)
    return drawn


def _stepped(points: Dots, is_step: bool) -> Dots:
    if not is_step:
        return points
    steps = points[:1]
    for (_, before), (x, y) in pairwise(points):
        steps += [(x, before), (x, y)]
    return steps


def _cloud(cloud: Cloud, x: Scale, y: Scale) -> str:
    drawn = []
    for index, (a, b) in enumerate(cloud.points):
        said = cloud.tips[index] if cloud.tips else f"{cloud.name}: {a:.4g}, {b:.4g}"
        drawn.append(svg.mark(cloud.shape, x(a), _within(b, y), f"dot {cloud.class_}", said, cloud.size))
    return "".join(drawn)


def _labels(clouds: Sequence[Cloud], place: Ground, x: Scale, y: Scale) -> str:
    """The labels of points, each where it covers no other label and no point; one with no such place is left out."""
    spots = [(x(a), _within(b, y)) for cloud in clouds for a, b in cloud.points]
    taken = [(left - 5, top - 5, left + 5, top + 5) for left, top in spots]
    drawn = []
    for cloud in clouds:
        for label, (a, b) in zip(cloud.labels, cloud.points, strict=False):
            at_x, at_y, width = x(a), _within(b, y), LETTER * len(label)
            for shift, rise in ((8, 4), (-8 - width, 4), (8, -8), (-8 - width, -8), (8, 17), (-8 - width, 17)):
                left, base = at_x + shift, at_y + rise
                spot = (left, base - 9, left + width, base + 2)
                if place.left <= left and left + width <= place.right and not any(_meet(spot, one) for one in taken):
                    taken.append(spot)
                    drawn.append(svg.words(left, base, label))
                    break
    return "".join(drawn)


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _level(level: Level, place: Ground, y: Scale) -> str:
    if not y.low <= level.value <= y.high:
        return ""
    at = y(level.value)
    return svg.line(place.left, at, place.right, at, f"stroke dash thin {level.class_}")


def _diagonal(x: Scale, y: Scale) -> str:
    low, high = max(x.low, y.low), min(x.high, y.high)
    if low >= high:
        return ""
    return svg.line(x(low), y(low), x(high), y(high), "stroke dash thin muted")


def _keys(chart: Chart) -> list[Key]:
    keys = [Key("dash" if curve.dash else "line", curve.class_, curve.name) for curve in chart.curves if curve.name]
    keys += [Key(cloud.shape, cloud.class_, cloud.name) for cloud in chart.clouds if cloud.name and cloud.points]
    return keys + [Key("dash", level.class_, level.name) for level in chart.levels]
