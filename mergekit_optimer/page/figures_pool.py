"""The pool in figures: cosines, also by layer, norms, and how straight each training was."""

from __future__ import annotations

from statistics import median

from mergekit_optimer.page import bars, curves, grids
from mergekit_optimer.page.analyses import Cosines, Geometry, Point, Trajectory
from mergekit_optimer.page.figure import Figure, rows_of
from mergekit_optimer.page.svg import MARKS, series


def cosines_between(cosines: Cosines) -> dict[tuple[str, str], float]:
    """The cosine of each pair of different vectors, once."""
    names = sorted(cosines)
    return {(a, b): cosines[a][b] for index, a in enumerate(names) for b in names[index + 1 :]}


def cosines_figure(geometry: Geometry) -> Figure | None:
    """The cosine of each vector with each, over all parameters."""
    cosines = geometry.cosines.get("total", {})
    between = cosines_between(cosines)
    if not between:
        return None
    names = sorted(cosines)
    body, height = grids.matrix(names, [[cosines[a][b] for b in names] for a in names])
    low, high = min(between, key=between.__getitem__), max(between, key=between.__getitem__)
    kinds = sorted(geometry.cosines, key=lambda kind: (kind != "total", kind))
    return Figure(
        "cosines", "Cosines between the vectors",
        f"Between different vectors from {between[low]:.3f} ({' and '.join(low)}) to {between[high]:.3f} "
        f"({' and '.join(high)}).",
        "Over all parameters; 0 is orthogonal, 1 the same direction. The CSV has them by kind of module too.",
        body, height, ("kind", "vector", *names),
        rows_of([(kind, a, *(geometry.cosines[kind][a][b] for b in names)) for kind in kinds for a in names]),
    )  # fmt: skip


def cosines_by_layer_figure(geometry: Geometry) -> Figure | None:
    """The cosine of each pair, layer by layer; the mean over pairs where there are many."""
    layers = sorted(geometry.cosines_by_layer, key=int)
    if len(layers) < 2:
        return None
    found = {layer: cosines_between(geometry.cosines_by_layer[layer]) for layer in layers}
    pairs = sorted(found[layers[0]])
    if not pairs:
        return None
    lines = [
        curves.Curve(f"{a} · {b}", series(index), [(float(layer), found[layer][a, b]) for layer in layers],
                     marks=MARKS[index % len(MARKS)])
        for index, (a, b) in enumerate(pairs)
    ]  # fmt: skip
    if len(pairs) > 8:
        middle = [(float(layer), median(found[layer].values())) for layer in layers]
        band = [(float(layer), min(found[layer].values()), max(found[layer].values())) for layer in layers]
        lines = [curves.Curve("median pair, and all pairs between", "s0", middle, band, marks="circle")]
    body, height = curves.draw(curves.Chart("layer", "cosine", lines, whole_x=True))
    first, last = median(found[layers[0]].values()), median(found[layers[-1]].values())
    return Figure(
        "cosines_by_layer", "Cosines by layer",
        f"The median cosine between different vectors is {first:.3f} in layer {layers[0]} and {last:.3f} in layer "
        f"{layers[-1]}.",
        "Where two vectors share a direction, and where each has its own.",
        body, height, ("layer", *(f"{a} · {b}" for a, b in pairs)),
        rows_of([(int(layer), *(found[layer][pair] for pair in pairs)) for layer in layers]),
    )  # fmt: skip


def norms_figure(geometry: Geometry) -> Figure:
    """Each vector's norm in percent of the base model's."""
    names = sorted(geometry.vectors)
    sizes = geometry.vectors
    shares = {name: 100 * sizes[name].relative_norm for name in names}
    rows = [bars.Bar(name, shares[name], f"{shares[name]:.2f} %", series(i)) for i, name in enumerate(names)]
    body, height = bars.bars(rows, "norm, % of the base model's")
    least = min(one.applied_fraction for one in sizes.values())
    return Figure(
        "norms", "Norms of the vectors",
        f"{', '.join(f'{name} {shares[name]:.2f} %' for name in names)} of the base model's norm.",
        f"At least {100 * least:.1f} % of each vector survives rounding to the model's dtype.",
        body, height, ("vector", "norm", "relative_norm", "applied_fraction"),
        rows_of([(n, sizes[n].norm, sizes[n].relative_norm, sizes[n].applied_fraction) for n in names]),
    )  # fmt: skip


def trajectory_figures(trajectory: Trajectory) -> list[Figure]:
    """How straight each training was: the cosine with the whole way, and how far along it each checkpoint is."""
    ways = {name: way.points for name, way in sorted(trajectory.vectors.items()) if way.points}
    if not ways:
        return []
    cosine = [
        curves.Curve(name, series(i), [(100 * p.step / points[-1].step, p.cosine) for p in points],
                     marks=MARKS[i % len(MARKS)])
        for i, (name, points) in enumerate(ways.items())
    ]  # fmt: skip
    along = [
        curves.Curve(name, series(i), [(0.0, 0.0), *((100 * p.step / points[-1].step, p.projection) for p in points)],
                     marks=MARKS[i % len(MARKS)])
        for i, (name, points) in enumerate(ways.items())
    ]  # fmt: skip
    straight = curves.Curve("even pace", "muted", [(0.0, 0.0), (100.0, 1.0)], dash=True)
    least = min(p.cosine for points in ways.values() for p in points)
    most = max(p.residual for points in ways.values() for p in points)
    header = ("vector", "step", "tokens", "cosine", "projection", "residual")
    rows = rows_of([(n, p.step, p.tokens, p.cosine, p.projection, p.residual) for n, way in ways.items() for p in way])
    first, first_height = curves.draw(curves.Chart("share of the training, %", "cosine with the whole way", cosine,
                                                   x_range=(0.0, 103.0), y_range=(min(0.0, least), 1.04)))  # fmt: skip
    second, second_height = curves.draw(curves.Chart("share of the training, %", "way along the final vector",
                                                     [*along, straight], x_range=(0.0, 103.0)))  # fmt: skip
    halves = ", ".join(f"by {name} at {_half(points):.0f} %" for name, points in ways.items())
    return [
        Figure(
            "trajectory", "How straight the trainings were",
            f"The least cosine of a checkpoint's way so far with the whole way is {least:.3f}; at most "
            f"{100 * most:.1f} % of a way's squared length lies off the line.",
            "1 is a straight line from the base model to the final checkpoint.",
            first, first_height, header, rows,
        ),
        Figure(
            "trajectory_projection", "What a weight means in training time",
            f"A weight of 0.5 is passed {halves} of its training.",
            "Read a weight on the vertical axis: the curve passes it at that share of the training.",
            second, second_height, header, rows,
        ),
    ]  # fmt: skip


def _half(points: list[Point]) -> float:
    """The share of the training, in percent, at which half the way along the final vector is gone."""
    before, done = (0.0, 0.0), 100.0 / points[-1].step
    for point in points:
        here = (done * point.step, point.projection)
        if here[1] >= 0.5:
            return before[0] + (here[0] - before[0]) * (0.5 - before[1]) / (here[1] - before[1])
        before = here
    return 100.0
