"""SVG as text: elements, escaped words and short numbers. Knows no chart; colours are classes of the page's style."""

from __future__ import annotations

from html import escape

# Classes s0..s7 of the style, each a colour in light and in dark.
N_SERIES = 8
# Marks differ too: colour alone tells nothing to some readers, or in print.
MARKS = ("circle", "square", "triangle", "diamond")


def plain(text: object) -> str:
    """Text for an attribute or a text node: one line, nothing that turns the direction, HTML's own signs escaped."""
    return escape("".join(char if char.isprintable() else " " for char in str(text)))


def number(value: float) -> str:
    """A coordinate: two decimals at most."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def element(name: str, inner: str = "", **attributes: object) -> str:
    """An element; ``class_`` is class and underscores are hyphens. A float becomes a coordinate, None is left out."""
    parts = []
    for key, value in attributes.items():
        if value is not None:
            shown = number(value) if isinstance(value, float) else plain(value)
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{shown}"')
    return f"<{name}{''.join(parts)}>{inner}</{name}>"


def words(x: float, y: float, text: object, class_: str = "tick", anchor: str = "start", **more: object) -> str:
    """A line of text; anchor is start, middle or end."""
    return element("text", plain(text), x=float(x), y=float(y), class_=class_, text_anchor=anchor, **more)


def tip(text: str) -> str:
    """What a pointer that rests on the element is told."""
    return element("title", plain(text)) if text else ""


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def polyline(points: list[tuple[float, float]], class_: str) -> str:
    return element("polyline", points=_points(points), class_=class_)


def polygon(points: list[tuple[float, float]], class_: str) -> str:
    return element("polygon", points=_points(points), class_=class_)


def box(x: float, y: float, width: float, height: float, class_: str, said: str = "", **more: object) -> str:
    """A rectangle, whatever the signs of its sides."""
    left, top = min(x, x + width), min(y, y + height)
    size = {"width": float(abs(width)), "height": float(abs(height))}
    return element("rect", tip(said), x=float(left), y=float(top), **size, class_=class_, **more)


def mark(shape: str, x: float, y: float, class_: str, said: str = "", size: float = 3.6) -> str:
    """A point of a chart: circle, square, triangle, diamond, ring, cross or star."""
    if shape in ("circle", "ring"):
        radius = size if shape == "circle" else 2 * size
        return element("circle", tip(said), cx=float(x), cy=float(y), r=float(radius), class_=class_)
    return element("path", tip(said), d=_outline(shape, x, y, size), class_=class_)


def series(index: int) -> str:
    """The class of a series' colour."""
    return f"s{index % N_SERIES}"


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)


def _outline(shape: str, x: float, y: float, r: float) -> str:
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "star": [(0, -2.2), (0.6, -0.7), (2.1, -0.7), (0.9, 0.3), (1.3, 1.8),
                 (0, 0.9), (-1.3, 1.8), (-0.9, 0.3), (-2.1, -0.7), (-0.6, -0.7)],
    }  # fmt: skip
    if shape == "cross":
        a, b = number(x - r), number(x + r)
        c, d = number(y - r), number(y + r)
        return f"M{a},{c}L{b},{d}M{a},{d}L{b},{c}"
    return "M" + "L".join(f"{number(x + r * dx)},{number(y + r * dy)}" for dx, dy in corners[shape]) + "Z"
