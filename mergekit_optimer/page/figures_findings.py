"""The findings in figures: what each vector brings, what each objective chose, the mixture, and what it all cost."""

from __future__ import annotations

from mergekit_optimer.page import bars, svg
from mergekit_optimer.page.analyses import Attribution, Cost, Mixture, Objectives
from mergekit_optimer.page.canvas import HEIGHT, Key, axes, cut, finish, ground
from mergekit_optimer.page.figure import Figure, rows_of
from mergekit_optimer.page.scales import Scale, extent, short
from mergekit_optimer.report import ReportData
from mergekit_optimer.report.numbers import format_duration, format_interval, format_weight


def attribution_figure(attribution: Attribution) -> Figure | None:
    """Winner minus winner without a vector, on held-out."""
    found = sorted(attribution.vectors.items(), key=lambda item: -item[1].mean.difference)
    if not found:
        return None
    rows = [
        bars.Span(name, one.mean.difference, one.mean.low, one.mean.high, f"{one.mean.difference:+.4f}",
                  "good" if one.mean.low > 0 else "bad" if one.mean.high < 0 else "muted")
        for name, one in found
    ]  # fmt: skip
    keys = [Key("circle", "good", "helps"), Key("circle", "bad", "harms"), Key("circle", "muted", "not clear")]
    body, height = bars.spans(rows, "winner minus winner without it, held-out mean", keys)
    tasks = sorted({task for _, one in found for task in one.tasks})
    flat = [(name, one.weight, "mean", one.mean) for name, one in found]
    flat += [(name, one.weight, task, one.tasks[task]) for name, one in found for task in tasks if task in one.tasks]
    said = ", ".join(f"{name} {one.mean.difference:+.4f}" for name, one in found)
    return Figure(
        "attribution", "What each vector brings",
        f"On the held-out mean: {said}.",
        "The winner against itself with one weight set to 0, the others as they are; right of zero the vector helps. "
        f"Intervals of a paired bootstrap ({attribution.n_resamples:,} resamples).",
        body, height, ("vector", "weight", "task", "difference", "low", "high"),
        rows_of([(n, w, task, e.difference, e.low, e.high) for n, w, task, e in flat]),
    )  # fmt: skip


def importances_figure(attribution: Attribution) -> Figure | None:
    """How much each weight moved the study's objective: another thing than what its vector brings."""
    found = attribution.importances
    if not found:
        return None
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    rows = [bars.Bar(name, value, f"{value:.2f}", "s0") for name, value in ranked]
    body, height = bars.bars(rows, "importance")
    return Figure(
        "importances", "Which weight moved the search", ", ".join(f"{n} {x:.2f}" for n, x in ranked) + ".",
        f"{attribution.importances_method}. It says nothing of what the vector is worth.",
        body, height, ("vector", "importance"), rows_of(ranked),
    )  # fmt: skip


def objectives_figure(objectives: Objectives) -> Figure | None:
    """The weights that each objective chose from one pool."""
    names = sorted({name for row in objectives.rows for name in row.weights})
    if len(objectives.rows) < 2 or not names:
        return None
    place = ground()
    low, high = extent([w for row in objectives.rows for w in row.weights.values()] + [0.0])
    y = place.y(low, high)
    width = (place.right - place.left) / len(objectives.rows)
    bar = min(24.0, 0.84 * width / len(names))
    parts = [axes(place, Scale(0, 1, place.left, place.right), y, "", "merge weight", [])]
    for index, row in enumerate(objectives.rows):
        start = place.left + (index + 0.5) * width - bar * len(names) / 2
        for column, name in enumerate(names):
            weight = row.weights.get(name, 0.0)
            said = f"{row.name}, {name}: {format_weight(weight)}"
            left = start + column * bar
            parts.append(svg.box(left, y(0.0), bar - 2, y(weight) - y(0.0), f"bar {svg.series(column)}", said))
        middle = place.left + (index + 0.5) * width
        parts.append(svg.words(middle, place.bottom + 18, cut(row.name, width + 8), "label", "middle"))
    parts.append(svg.line(place.left, y(0.0), place.right, y(0.0), "zero"))
    keys = [Key("square", svg.series(column), name) for column, name in enumerate(names)]
    body, height = finish("".join(parts), keys, HEIGHT - 12)
    tasks = sorted(objectives.tasks)
    return Figure(
        "objectives", "The weights that each objective chose",
        "; ".join(f"{row.name}: " + ", ".join(f"{n} {row.weights[n]:+.2f}" for n in sorted(row.weights))
                  for row in objectives.rows) + ".",
        "One pool, trained once; each group of bars is a search for another objective.",
        body, height, ("study", "objective", "dev", *(f"weight of {n}" for n in names), *tasks),
        rows_of([(row.name, row.objective, row.dev, *(row.weights.get(n) for n in names),
                  *(row.held_out[t].value if t in row.held_out else None for t in tasks)) for row in objectives.rows]),
    )  # fmt: skip


def mixture_figure(mixture: Mixture) -> Figure:
    """The shares of the data mixture that the winner's weights stand for."""
    names = sorted(mixture.shares, key=lambda name: -mixture.shares[name])
    rows = [
        bars.Bar(name, 100 * mixture.shares[name], f"{100 * mixture.shares[name]:.1f} %",
                 svg.series(sorted({*mixture.shares, *mixture.left_out}).index(name)))
        for name in names
    ]  # fmt: skip
    body, height = bars.bars(rows, "share of the mixture's tokens, %")
    said = ", ".join(f"{name} {100 * mixture.shares[name]:.1f} %" for name in names)
    return Figure(
        "mixture", "The weights as a data mixture", f"{said}.",
        "max(weight, 0) times the tokens that the vector was trained on, normalised.",
        body, height, ("dataset", "share", "tokens"),
        rows_of([(name, mixture.shares[name], mixture.tokens.get(name)) for name in names]),
    )  # fmt: skip


def mixture_scores_figure(report: ReportData) -> Figure | None:
    """A training on the shares of the weights minus one on the uniform mixture, on held-out."""
    found = report.mixtures
    if found is None:
        return None
    by_name = {**found.tasks, "mean": found.mean}
    rows = [
        bars.Span(name, one.difference, one.low, one.high, f"{one.difference:+.4f}",
                  "good" if one.low > 0 else "bad" if one.high < 0 else "muted")
        for name, one in by_name.items()
    ]  # fmt: skip
    keys = [Key("circle", "good", "the weights' shares are better"), Key("circle", "bad", "worse"),
            Key("circle", "muted", "not clear")]  # fmt: skip
    body, height = bars.spans(rows, "data_mixture/optimised minus data_mixture, held-out", keys)
    return Figure(
        "mixture_scores", "Trained on the weights' shares, against the uniform mixture",
        f"In the held-out mean a training on the weights' shares differs by {format_interval(found.mean)}, positive "
        f"being better: {found.verdict}.",
        "Two trainings on as many tokens of the same datasets, which differ in the shares only. Right of zero the "
        "shares of the weights are better, whatever the metric's direction.",
        body, height, ("task", "difference", "low", "high"),
        rows_of([(name, one.difference, one.low, one.high) for name, one in by_name.items()]),
    )  # fmt: skip


def cost_figure(cost: Cost) -> Figure:
    """What was spent, and what searching mixtures by training would take."""
    spent = [("pool", cost.pool), ("search", cost.search), ("one mixture", cost.mixture),
             (f"{cost.mixtures_searched:,} mixtures", cost.mixtures_total)]  # fmt: skip
    known = [(name, one) for name, one in spent if one is not None]
    rows = [
        bars.Bar(name, one.seconds, format_duration(one.seconds), "s1" if "mixture" in name else "s0")
        for name, one in known
    ]
    keys = [Key("square", "s0", "measured here: train once, search"), Key("square", "s1", "train mixtures instead")]
    body, height = bars.bars(rows, "seconds", keys)
    return Figure(
        "cost", "What the search cost, and what training mixtures would",
        f"Searching {cost.mixtures_searched} mixtures by training each, against pool and search: {_ratio(cost)}.",
        "Pool, search and one mixture are measured; more mixtures are as many trainings, each scored as a trial is.",
        body, height, ("part", "tokens", "seconds", "flops"),
        rows_of([(name, one.tokens, one.seconds, one.flops) for name, one in known]),
    )  # fmt: skip


def cost_words(cost: Cost) -> str:
    """The ratio in a sentence."""
    both = cost.pool.seconds + cost.search.seconds
    flops = short(cost.pool.flops + cost.search.flops, " ")
    return (
        f"Pool and search took {format_duration(both)} and about {flops}FLOP. A "
        f"search over {cost.mixtures_searched} mixtures, each trained, would take {_ratio(cost)}; the paper reports 15 "
        "to 35 times."
    )


def _ratio(cost: Cost) -> str:
    if cost.ratio_seconds is None or cost.ratio_flops is None:
        return "a multiple that is not given here, as not all of this run's cost is known"
    return f"{cost.ratio_seconds:.1f} times the time and {cost.ratio_flops:.1f} times the floating-point operations"
