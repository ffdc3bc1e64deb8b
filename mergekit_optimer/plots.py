"""ReportData -> the figure of the search, as PNG and as the CSV of what it shows. Reads nothing, decides nothing."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from mergekit_optimer.files import write_bytes, write_text
from mergekit_optimer.report import ReportData, TrialFacts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES = (8.0, 4.0)
_DOTS_PER_INCH = 120
# Room above and below the points, as a share of their range.
_MARGIN = 0.08
# What is worse than so many times the median's distance from the best stands at the lower edge.
_WORST = 4.0


class SearchCurve(NamedTuple):
    """What the figure shows.

    Attributes:
        trials: In order of their number.
        best_so_far: For each trial the best value up to it, of those that can win; None before the first of them.
        winner: Number of the trial that won, on the last rung.
        base_value: The base model's objective; None where it is not known.
        n_samples: Dev samples of each task that every value stands on.
    """

    trials: tuple[TrialFacts, ...]
    best_so_far: tuple[float | None, ...]
    winner: int
    base_value: float | None
    n_samples: int


def search_curve(report: ReportData) -> SearchCurve:
    """Gather what the figure of the search shows."""
    best: float | None = None
    best_so_far: list[float | None] = []
    for trial in report.trials:
        if trial.state == "scored":
            best = trial.value if best is None else max(best, trial.value)
        best_so_far.append(best)
    search = report.search
    return SearchCurve(
        report.trials, tuple(best_so_far), search.best_trial, search.base_value, search.rungs[0].n_samples
    )


def search_figure(report: ReportData, path: Path) -> Path:
    """Draw each trial's objective and the best so far over the trial's number; the CSV lies beside the PNG.

    The same report gives the same bytes with the same matplotlib. A collapsed trial has the metric's floor for a
    value: it stands at the lower edge, and so does any other that is far below the rest.

    Args:
        path: Of the PNG; the CSV has its name with another suffix.

    Returns:
        The path of the PNG.
    """
    curve = search_curve(report)
    write_text(path.with_suffix(".csv"), _csv(curve))
    write_bytes(path, _png(curve))
    return path


def _csv(curve: SearchCurve) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("trial", "objective", "best_so_far", "kind", "state"))
    for trial, best in zip(curve.trials, curve.best_so_far, strict=True):
        shown = "" if best is None else repr(best)
        writer.writerow((trial.number, repr(trial.value), shown, trial.kind, trial.state))
    return out.getvalue()


def _png(curve: SearchCurve) -> bytes:
    import matplotlib.style
    from matplotlib.figure import Figure

    # Neither the user's own settings nor a display has a part in it.
    with matplotlib.style.context("default", after_reset=True):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, curve)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=4)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return out.getvalue()


def _draw(axes: Axes, curve: SearchCurve) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = _limits(curve)
    groups = (
        ("trial", "o", "tab:blue", [t for t in curve.trials if t.state == "scored" and t.kind != "warm_start"]),
        ("warm start", "s", "tab:orange", [t for t in curve.trials if t.state == "scored" and t.kind == "warm_start"]),
        ("stopped early (estimate)", "x", "tab:gray", [t for t in curve.trials if t.state == "stopped"]),
        ("rejected: loses too much", "v", "tab:red", [t for t in curve.trials if t.state == "rejected"]),
        ("collapsed, far below", "|", "black", [t for t in curve.trials if t.state == "collapsed"]),
    )
    for label, marker, color, trials in groups:
        if trials:
            values = [low if trial.state == "collapsed" else max(trial.value, low) for trial in trials]
            axes.scatter([trial.number for trial in trials], values, s=22, marker=marker, color=color, label=label,
                         zorder=3, clip_on=False)  # fmt: skip
    climbed = [(t.number, best) for t, best in zip(curve.trials, curve.best_so_far, strict=True) if best is not None]
    if climbed:
        numbers, best = zip(*climbed, strict=True)
        axes.step(numbers, best, where="post", color="tab:blue", linewidth=1.2, label="best so far", zorder=2)
    for trial in curve.trials:
        if trial.number == curve.winner:
            axes.scatter([trial.number], [trial.value], s=150, marker="*", facecolor="none", edgecolor="tab:green",
                         linewidth=1.4, label="winner (on the last rung)", zorder=4)  # fmt: skip
    if curve.base_value is not None and low <= curve.base_value <= high:
        axes.axhline(curve.base_value, color="tab:gray", linestyle="--", linewidth=1, label="base model", zorder=1)
    axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(f"objective on {curve.n_samples} dev samples a task")


def _limits(curve: SearchCurve) -> tuple[float, float]:
    """The range worth looking at, with a margin: a few far worse trials would flatten the others."""
    values = [trial.value for trial in curve.trials if trial.state != "collapsed"]
    high = max(values, default=0.0)
    low = min(values, default=0.0)
    if values:
        low = max(low, high - _WORST * (high - median(values)))
    if curve.base_value is not None:
        low, high = min(low, curve.base_value), max(high, curve.base_value)
    margin = _MARGIN * (high - low) or 1.0
    return low - margin, high + margin
