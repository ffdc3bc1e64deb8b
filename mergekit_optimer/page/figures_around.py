"""What lies around the winner in figures: slices through it, a plane, and the front of several targets."""

from __future__ import annotations

from mergekit_optimer.page import curves, grids
from mergekit_optimer.page.analyses import Landscape, Pareto, Reach
from mergekit_optimer.page.data import PageData
from mergekit_optimer.page.figure import Figure, rows_of
from mergekit_optimer.page.svg import MARKS, series


def slices_figure(landscape: Landscape) -> Figure | None:
    """The objective over each weight with the others at the winner's, with the error of the difference to it."""
    if not landscape.slices:
        return None
    lines = []
    for index, (name, one) in enumerate(sorted(landscape.slices.items())):
        rows = sorted(zip(one.weights, one.objective, one.stderr, strict=True))
        lines.append(
            curves.Curve(name, series(index), [(w, value) for w, value, _ in rows],
                         [(w, value - error, value + error) for w, value, error in rows],
                         marks=MARKS[index % len(MARKS)])
        )  # fmt: skip
    body, height = curves.draw(
        curves.Chart("merge weight, the others at the winner's", "objective", lines, height=300.0)
    )
    sharp = [f"{name} {reach_words(reach)}" for name, reach in sorted(landscape.sharpness.items())]
    return Figure(
        "landscape", "The objective around the winner",
        "A weight loses less than one standard error in these intervals: " + "; ".join(sharp) + "."
        if sharp else f"Slices through the winner along {', '.join(sorted(landscape.slices))}.",
        "Bands are one standard error of the paired difference to the winner. A flat curve: the weight hardly matters.",
        body, height, ("vector", "weight", "objective", "stderr"),
        rows_of([(name, *row) for name, one in sorted(landscape.slices.items())
                 for row in zip(one.weights, one.objective, one.stderr, strict=True)]),
    )  # fmt: skip


def reach_words(reach: Reach) -> str:
    """An interval of weights in words; an end that was not reached is open."""
    low = "below what was scored" if reach.low is None else f"{reach.low:+.2f}"
    high = "beyond what was scored" if reach.high is None else f"{reach.high:+.2f}"
    return f"{low} to {high}"


def plane_figure(landscape: Landscape, data: PageData) -> Figure | None:
    """The objective over two weights, with the trials on it."""
    plane = landscape.plane
    if plane is None:
        return None
    over = grids.Field(plane.x, plane.y, plane.weights_x, plane.weights_y, plane.objective)
    trials = [t for t in data.trials if plane.x in t.weights and plane.y in t.weights]
    spots = [(t.weights[plane.x], t.weights[plane.y]) for t in trials]
    tips = [f"#{t.number}: {t.value:.4f}" for t in trials]
    clouds = [curves.Cloud("trials, with other weights elsewhere", "ink", "circle", spots, tips, size=2.2)]
    if plane.x in landscape.winner and plane.y in landscape.winner:
        spot = (landscape.winner[plane.x], landscape.winner[plane.y])
        clouds.append(curves.Cloud("winner", "won", "star", [spot], size=4.4))
    body, height = grids.field(over, clouds, "objective")
    best = max((value, x, y) for y, row in zip(plane.weights_y, plane.objective, strict=True)
               for x, value in zip(plane.weights_x, row, strict=True))  # fmt: skip
    return Figure(
        "landscape_plane", f"The objective over {plane.x} and {plane.y}",
        f"The best cell has weights {best[1]:.2f} for {plane.x} and {best[2]:.2f} for {plane.y}: {best[0]:.4f}.",
        "The other weights are the winner's. The fuller the colour, the better. The trials' other weights differ, so "
        "they stand where they were and not on what they scored.",
        body, height, (f"weight of {plane.y} \\ {plane.x}", *(repr(x) for x in plane.weights_x)),
        rows_of([(y, *row) for y, row in zip(plane.weights_y, plane.objective, strict=True)]),
    )  # fmt: skip


def pareto_figures(pareto: Pareto) -> list[Figure]:
    """The trials over each two targets, with the front: what no trial beats on all of them."""
    figures: list[Figure] = []
    tasks = pareto.tasks
    pairs = [(a, b) for index, a in enumerate(tasks) for b in tasks[index + 1 :]]
    on_front = {trial.number for trial in pareto.front}
    for a, b in pairs:
        rest = [t for t in pareto.trials if t.number not in on_front]
        front = sorted(pareto.front, key=lambda t: t.values[a])
        points = [(t.values[a], t.values[b]) for t in front]
        line = [curves.Curve("", "s1", points, dash=True)] if len(tasks) == 2 and len(points) > 1 else []
        chart = curves.Chart(
            f"{a} ({_better(pareto, a)})", f"{b} ({_better(pareto, b)})", line,
            [curves.Cloud("trial", "s0", "circle", [(t.values[a], t.values[b]) for t in rest],
                          [f"#{t.number}" for t in rest]),
             curves.Cloud("front", "s1", "square", points,
                          [f"#{t.number}: " + ", ".join(f"{n} {w:+.2f}" for n, w in sorted(t.weights.items()))
                           for t in front], size=4.4)],
            height=300.0,
        )  # fmt: skip
        body, height = curves.draw(chart)
        figures.append(
            Figure(
                "pareto" if len(pairs) == 1 else f"pareto_{len(figures) + 1}", f"What {a} costs {b}",
                f"{len(pareto.front)} of {len(pareto.trials)} trials lie on the front of {', '.join(tasks)}.",
                "On the front nothing is gained on one target without a loss on another.",
                body, height, ("trial", "on_front", *tasks),
                rows_of([(t.number, int(t.number in on_front), *(t.values[task] for task in tasks))
                         for t in pareto.trials]),
            )
        )  # fmt: skip
    return figures


def _better(pareto: Pareto, task: str) -> str:
    return "more is better" if pareto.directions.get(task) == "max" else "less is better"
