"""The scores in figures: the winner against each baseline, and what of the dev set's gain is there on held-out."""

from __future__ import annotations

from mergekit_optimer.compare import WINNER
from mergekit_optimer.page import bars, curves
from mergekit_optimer.page.canvas import Key
from mergekit_optimer.page.figure import Figure, rows_of
from mergekit_optimer.report import ReportData, relative_gains, tasks_of_both
from mergekit_optimer.report.numbers import format_interval

_VERDICTS = {"better": "good", "worse": "bad"}


def differences_figure(report: ReportData) -> Figure:
    """Winner minus each baseline in the held-out mean, with the interval."""
    comparison = report.comparison
    against = {model: comparison.baselines[model] for model in comparison.ranking}
    rows = [
        bars.Span(model, one.mean.difference, one.mean.low, one.mean.high, f"{one.mean.difference:+.4f}",
                  _VERDICTS.get(one.verdict, "muted"))
        for model, one in against.items()
    ]  # fmt: skip
    keys = [Key("circle", "good", "winner is better"), Key("circle", "bad", "worse"),
            Key("circle", "muted", "no clear difference")]  # fmt: skip
    percent = round(100 * comparison.level)
    unit = "held-out mean" if comparison.mean_of == "scores" else "mean relative gain"
    body, height = bars.spans(rows, f"winner minus baseline, {unit}", keys)
    best = comparison.best_baseline
    return Figure(
        "differences", "The winner against each baseline on the held-out set",
        f"Against the best baseline, {best}: {format_interval(against[best].mean)}.",
        f"Right of zero the winner is better, whatever the metric's direction. Lines are {percent} % intervals of a "
        "paired bootstrap.",
        body, height, ("baseline", "difference", "low", "high", "verdict"),
        rows_of([(name, one.mean.difference, one.mean.low, one.mean.high, one.verdict)
                 for name, one in against.items()]),
    )  # fmt: skip


def dev_held_out_figure(report: ReportData) -> Figure | None:
    """Each model's mean gain over the base on the dev set and on the held-out set."""
    gains = {model: (one["dev"], one["held_out"]) for model, one in relative_gains(report).items()}
    models, tasks = list(gains), tasks_of_both(report)
    if len(models) < 2:
        return None
    groups = (
        ("winner", "won", "star", [m for m in models if m == WINNER]),
        ("single vectors", "s2", "square", [m for m in models if m.startswith("single/")]),
        ("other baselines", "s0", "circle", [m for m in models if m != WINNER and not m.startswith("single/")]),
    )
    clouds = [
        curves.Cloud(name, class_, shape, [gains[m] for m in found],
                     [f"{m}: dev {gains[m][0]:+.4f}, held-out {gains[m][1]:+.4f}" for m in found],
                     [_label(m) for m in found], 4.4)
        for name, class_, shape, found in groups
    ]  # fmt: skip
    shown = [100 * x for pair in gains.values() for x in pair]
    clouds = [_in_percent(cloud) for cloud in clouds]
    room = 0.12 * (max(shown) - min(shown)) or 1.0
    span = (min(shown) - room, max(shown) + room)
    chart = curves.Chart("mean gain over the base on dev, %", "on held-out, %", clouds=clouds, x_range=span,
                         y_range=span, diagonal=True, height=330.0)  # fmt: skip
    body, height = curves.draw(chart)
    on_dev, out = gains[WINNER]
    return Figure(
        "dev_held_out", "Dev against held-out",
        f"The winner's mean relative gain over the base model is {100 * on_dev:.2f} % on the dev set and "
        f"{100 * out:.2f} % on the held-out set.",
        f"Mean over {', '.join(tasks)} of each task's gain in units of the base's own score. Below the dashed line a "
        "model gains less on held-out than on dev; the winner was chosen on dev, the base and the baselines were not.",
        body, height, ("model", "dev_gain", "held_out_gain"), rows_of([(m, *gains[m]) for m in models]),
    )  # fmt: skip


def _label(model: str) -> str:
    return model.removeprefix("single/")


def _in_percent(cloud: curves.Cloud) -> curves.Cloud:
    points = [(100 * x, 100 * y) for x, y in cloud.points]
    return curves.Cloud(cloud.name, cloud.class_, cloud.shape, points, cloud.tips, cloud.labels, cloud.size)
