"""Parallel coordinates: an axis for each name, a line for each of several points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mergekit_optimer.page import svg
from mergekit_optimer.page.canvas import HEIGHT, Key, cut, finish, ground
from mergekit_optimer.page.scales import extent, tick_text

_CLASSES = {"first": "stroke s1 strong", "best": "stroke s0", "rest": "stroke thin faint muted"}


@dataclass(frozen=True)
class Strand:
    """One point of the space, and how it is drawn: the first of all, one of the best, or one of the rest."""

    values: Mapping[str, float]
    said: str
    rank: Literal["first", "best", "rest"]


def draw(names: Sequence[str], strands: Sequence[Strand], y_name: str, keys: Mapping[str, str]) -> tuple[str, float]:
    """The strands, the better on top, over axes that share one scale.

    Args:
        strands: The best first.
        keys: What the legend calls each rank.
    """
    place = ground()
    low, high = extent([value for strand in strands for value in strand.values.values()] + [0.0], 0.05)
    y = place.y(low, high)
    width = (place.right - place.left) / max(1, len(names))
    at = {name: place.left + (index + 0.5) * width for index, name in enumerate(names)}
    ticks = y.ticks()
    parts = []
    for tick in ticks:
        parts.append(svg.line(place.left, y(tick), place.right, y(tick), "zero" if tick == 0 else "grid"))
        parts.append(svg.words(place.left - 6, y(tick) + 4, tick_text(tick, ticks), anchor="end"))
    for name in names:
        parts.append(svg.line(at[name], place.top, at[name], place.bottom, "axis"))
        parts.append(svg.words(at[name], place.bottom + 18, cut(name, width + 8), "label", "middle"))
    middle = (place.top + place.bottom) / 2
    parts.append(svg.words(11, middle, y_name, "name", "middle", transform=f"rotate(-90 11 {svg.number(middle)})"))
    for strand in reversed(strands):
        points = [(at[name], y(strand.values[name])) for name in names]
        corners = " ".join(f"{svg.number(a)},{svg.number(b)}" for a, b in points)
        parts.append(svg.element("polyline", svg.tip(strand.said), points=corners, class_=_CLASSES[strand.rank]))
        if strand.rank == "first":
            parts += [svg.mark("circle", a, b, "dot s1", strand.said) for a, b in points]
    shown = [
        Key("line", class_.removeprefix("stroke "), keys[rank]) for rank, class_ in _CLASSES.items() if rank in keys
    ]
    return finish("".join(parts), shown, HEIGHT - 12)
