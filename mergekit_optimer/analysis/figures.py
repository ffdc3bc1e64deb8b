"""Geometry and trajectories -> PNG figures. Reads nothing, decides nothing; the numbers lie in analysis/*.csv."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mergekit_optimer.analysis.geometry import Cosines, Geometry
from mergekit_optimer.analysis.trajectory import Trajectory
from mergekit_optimer.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 120
# A cell of a heat map this dark has white letters.
_DARK = 0.6


def geometry_figures(geometry: Geometry, folder: Path) -> list[Path]:
    """Draw cosines.png, norms.png and, for a pool of several vectors with layers, cosines_by_layer.png.

    The same numbers give the same bytes with the same matplotlib.

    Returns:
        The files, in that order.
    """
    made = [_save(folder / "cosines.png", lambda figure: _draw_cosines(figure, geometry.cosines))]
    made.append(_save(folder / "norms.png", lambda figure: _draw_norms(figure, geometry)))
    if geometry.cosines_by_layer and geometry.pairs:
        made.append(_save(folder / "cosines_by_layer.png", lambda figure: _draw_layers(figure, geometry)))
    return made


def trajectory_figure(trajectories: Mapping[str, Trajectory], path: Path) -> Path:
    """Draw, over the share of training, how far along the line to its end each training was, and its cosine with it."""
    return _save(path, lambda figure: _draw_trajectories(figure, trajectories))


def _save(path: Path, draw: Callable[[Figure], None]) -> Path:
    import matplotlib.style
    from matplotlib.figure import Figure

    # Neither the user's own settings nor a display has a part in it.
    with matplotlib.style.context("default", after_reset=True):
        figure = Figure(layout="constrained")
        draw(figure)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    write_bytes(path, out.getvalue())
    return path


def _draw_cosines(figure: Figure, cosines: Mapping[str, Cosines]) -> None:
    groups = ["total", *[group for group in cosines if group != "total"]]
    side = max(2.2, 0.62 * len(cosines["total"]) + 0.8)
    figure.set_size_inches(side * len(groups) + 0.8, side + 0.5)
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, group in zip(axes, groups, strict=True):
        names = list(cosines[group])
        values = [[cosines[group][a][b] for b in names] for a in names]
        image = axis.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r")
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                color = "white" if abs(value) > _DARK else "black"
                axis.text(j, i, f"{value:z.2f}", ha="center", va="center", fontsize=8, color=color)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names), fontsize=8)
        axis.set_title("all parameters" if group == "total" else group, fontsize=9)
    figure.colorbar(image, ax=list(axes), label="cosine", shrink=0.8)


def _draw_norms(figure: Figure, geometry: Geometry) -> None:
    figure.set_size_inches(8, 3.4)
    names = sorted(geometry.vectors)
    left, right = figure.subplots(1, 2)
    sizes = [geometry.vectors[name].relative_norm for name in names]
    bars = left.bar(names, sizes, color=[f"C{i}" for i in range(len(names))])
    left.bar_label(bars, fmt="%.3g", fontsize=8)
    left.margins(y=0.15)
    left.set_ylabel("norm over the base's")
    kinds = list(dict.fromkeys(kind for one in geometry.vectors.values() for kind in one.norms))
    for i, name in enumerate(names):
        if geometry.norms_by_layer:
            layers = [int(layer) for layer in geometry.norms_by_layer]
            right.plot(layers, [row[name] for row in geometry.norms_by_layer.values()], "o-", color=f"C{i}", ms=3)
        else:
            right.plot(kinds, [geometry.vectors[name].norms.get(kind, 0.0) for kind in kinds], "o", color=f"C{i}")
    right.set_xlabel("layer" if geometry.norms_by_layer else "")
    right.set_ylabel("norm of the vector")
    right.set_ylim(bottom=0)
    _whole_numbers(right, bool(geometry.norms_by_layer))
    figure.legend(handles=list(bars), labels=names, fontsize=8, loc="outside lower center", ncols=max(1, len(names)))


def _draw_layers(figure: Figure, geometry: Geometry) -> None:
    figure.set_size_inches(8, 4)
    axes = figure.subplots()
    layers = [int(layer) for layer in geometry.cosines_by_layer]
    for a, b in geometry.pairs:
        values = [cosines[a][b] for cosines in geometry.cosines_by_layer.values()]
        axes.plot(layers, values, "o-", ms=3, label=f"{a} · {b}")
    axes.axhline(0, color="tab:gray", linewidth=1, linestyle="--")
    axes.set_xlabel("layer")
    axes.set_ylabel("cosine of two vectors")
    _whole_numbers(axes)
    figure.legend(fontsize=8, loc="outside lower center", ncols=6)


def _draw_trajectories(figure: Figure, trajectories: Mapping[str, Trajectory]) -> None:
    figure.set_size_inches(8, 3.8)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="tab:gray", linewidth=1, linestyle="--", label="even progress")
    for i, (name, one) in enumerate(trajectories.items()):
        shares = [point.share for point in one.points]
        left.plot([0, *shares], [0, *[p.projection for p in one.points]], "o-", color=f"C{i}", ms=3, label=name)
        right.plot(shares, [point.cosine for point in one.points], "o-", color=f"C{i}", ms=3)
    left.set_ylabel("merge weight that comes nearest")
    right.set_ylabel("cosine with the line to the end")
    right.set_ylim(min(0.0, right.get_ylim()[0]), 1.02)
    for axes in (left, right):
        axes.set_xlabel("share of the training's steps")
        axes.set_xlim(0, 1.02)
    figure.legend(fontsize=8, loc="outside lower center", ncols=6)


def _whole_numbers(axes: Axes, wanted: bool = True) -> None:
    from matplotlib.ticker import MaxNLocator

    if wanted:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
