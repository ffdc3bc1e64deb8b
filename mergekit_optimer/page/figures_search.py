"""The search in figures: each trial and the best so far, the winner's weights, and the weights of the best trials."""

from __future__ import annotations

from statistics import median

from mergekit_optimer.page import bars, curves, parallel
from mergekit_optimer.page.data import PageData
from mergekit_optimer.page.figure import Figure, rows_of
from mergekit_optimer.page.svg import series
from mergekit_optimer.report import TrialFacts
from mergekit_optimer.report.numbers import format_number, format_weight

N_BEST = 12
# More lines than this only blacken the figure.
_MOST_STRANDS = 200
# What is worse than so many times the median's distance from the best stands at the lower edge.
_WORST = 4.0
_GROUPS = (
    ("trial", "s0", "circle"), ("warm start", "s1", "square"), ("stopped early (estimate)", "muted", "cross"),
    ("rejected: loses too much", "s6", "triangle"), ("collapsed, far below", "muted", "diamond"),
)  # fmt: skip


def search_figure(data: PageData) -> Figure | None:
    """Each trial's objective, the best so far with its error, and the baselines among the trials."""
    scored = [trial for trial in data.trials if trial.state == "scored"]
    if not scored:
        return None
    best: TrialFacts | None = None
    bests: list[TrialFacts | None] = []
    for trial in data.trials:
        if trial.state == "scored" and (best is None or trial.value > best.value):
            best = trial
        bests.append(best)
    climbed = [(trial.number, one) for trial, one in zip(data.trials, bests, strict=True) if one is not None]
    band = [(float(n), one.value - (one.stderr or 0.0), one.value + (one.stderr or 0.0)) for n, one in climbed]
    assert best is not None
    low, high = _range(data, [bound for _, *bounds in band for bound in bounds])
    clouds = [
        curves.Cloud(name, class_, shape, [(float(t.number), t.value) for t in trials], [_told(t) for t in trials])
        for (name, class_, shape), trials in zip(_GROUPS, _grouped(data.trials), strict=True)
    ]
    winner = [trial for trial in data.trials if trial.number == data.winner]
    spots = [(float(t.number), t.value) for t in winner]
    clouds.append(curves.Cloud("winner (on the last rung)", "won", "ring", spots, [_told(t) for t in winner]))
    chart = curves.Chart(
        "trial", f"objective, {format_number(data.n_samples)} dev samples a task",
        curves=[curves.Curve("best so far ± standard error against the base", "s0", [(n, t.value) for n, t in climbed],
                             band, is_step=True)],
        clouds=clouds, levels=_levels(data), y_range=(low, high), whole_x=True, height=300.0,
    )  # fmt: skip
    body, height = curves.draw(chart)
    rows = [
        (t.number, t.value, t.stderr, None if one is None else one.value, t.kind, t.state, t.baseline)
        for t, one in zip(data.trials, bests, strict=True)
    ]
    gain = "" if data.base_value is None else f", {format_weight(best.value - data.base_value)} over the base model"
    return Figure(
        "search_trials", "Objective of each trial and the best so far",
        f"{len(data.trials)} trials; the best, #{best.number}, has an objective of {best.value:.4f}{gain}.",
        "More is better; lower-is-better metrics are negated. All values stand on the same dev samples. The band is "
        "one standard error of the paired difference to the base model.",
        body, height, ("trial", "objective", "stderr_against_base", "best_so_far", "kind", "state", "baseline"),
        rows_of(rows),
    )  # fmt: skip


def weights_figure(data: PageData) -> Figure | None:
    """The winner's merge weight of each vector."""
    if not data.weights:
        return None
    names = sorted(data.weights)
    rows = [
        bars.Bar(name, data.weights[name], format_weight(data.weights[name]), series(index))
        for index, name in enumerate(names)
    ]
    body, height = bars.bars(rows, "merge weight")
    said = ", ".join(f"{name} {format_weight(data.weights[name])}" for name in names)
    return Figure(
        "weights", "Merge weights of the winner", f"{said}.",
        "Each vector is added to the base model so many times; a negative weight takes it away.",
        body, height, ("vector", "weight"), rows_of([(name, data.weights[name]) for name in names]),
    )  # fmt: skip


def top_trials_figure(data: PageData) -> Figure | None:
    """The weights of the best trials as parallel coordinates: whether they agree, and on which vector they do not."""
    ranked = sorted((t for t in data.trials if t.state == "scored" and t.weights), key=lambda t: (-t.value, t.number))
    first = next((t for t in ranked if t.number == data.winner), ranked[0] if ranked else None)
    names = sorted(ranked[0].weights) if ranked else []
    if first is None or len(ranked) < 2 or len(names) < 2:
        return None
    # The winner won on more samples, so it need not lead here.
    ranked = [first, *(t for t in ranked if t is not first)][:_MOST_STRANDS]
    best = ranked[:N_BEST]
    strands = [
        parallel.Strand(t.weights, _told(t), "first" if t is first else "best" if index < N_BEST else "rest")
        for index, t in enumerate(ranked)
    ]
    keys = {"first": "winner" if first.number == data.winner else "best so far", "best": f"the {len(best)} best trials"}
    if len(ranked) > N_BEST:
        keys["rest"] = "other trials"
    body, height = parallel.draw(names, strands, "merge weight", keys)
    spread = {name: max(t.weights[name] for t in best) - min(t.weights[name] for t in best) for name in names}
    widest = max(names, key=lambda name: spread[name])
    return Figure(
        "top_trials", "Weights of the best trials",
        f"Among the {len(best)} best trials the weights differ most in {widest}, by {spread[widest]:.3f}.",
        "A line is a trial. Where the best run together the objective decides the weight; where they spread it hardly "
        "matters.",
        body, height, ("trial", "objective", *names), rows_of([(t.number, t.value, *(t.weights[n] for n in names))
                                                               for t in ranked]),
    )  # fmt: skip


def _grouped(trials: tuple[TrialFacts, ...]) -> list[list[TrialFacts]]:
    """The trials in the order of the legend's groups."""
    scored = [trial for trial in trials if trial.state == "scored"]
    return [
        [trial for trial in scored if trial.kind != "warm_start"],
        [trial for trial in scored if trial.kind == "warm_start"],
        *([trial for trial in trials if trial.state == state] for state in ("stopped", "rejected", "collapsed")),
    ]


def _levels(data: PageData) -> list[curves.Level]:
    """The base, the best single vector and the uniform average, where they were trials."""
    named = {t.baseline: t.value for t in data.trials if t.baseline is not None and t.state != "stopped"}
    levels = [] if data.base_value is None else [curves.Level("base_model", data.base_value)]
    singles = [name for name in named if name.startswith("single/")]
    if singles:
        best = max(singles, key=lambda name: named[name])
        levels.append(curves.Level(best, named[best], "s2"))
    if "uniform_average" in named:
        levels.append(curves.Level("uniform_average", named["uniform_average"], "s3"))
    return levels


def _range(data: PageData, bounds: list[float]) -> tuple[float, float]:
    """The values worth looking at: a few far worse trials would flatten the others."""
    values = [trial.value for trial in data.trials if trial.state != "collapsed"]
    high = max(values)
    low = max(min(values), high - _WORST * (high - median(values)))
    shown = [low, high, *(level.value for level in _levels(data)), *(bound for bound in bounds if bound >= low)]
    room = 0.06 * (max(shown) - min(shown)) or 1.0
    return min(shown) - room, max(shown) + room


def _told(trial: TrialFacts) -> str:
    weights = ", ".join(f"{name} {weight:+.3f}" for name, weight in sorted(trial.weights.items()))
    what = trial.baseline or trial.kind.replace("_", " ")
    return f"#{trial.number} ({what}): {trial.value:.4f}{'; ' + weights if weights else ''}"
