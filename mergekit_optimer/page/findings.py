"""The analyses in sentences and tables: what the paper claims, with this run's numbers and no more."""

from __future__ import annotations

from statistics import median

from mergekit_optimer.page.analyses import Attribution, Cost, Geometry, Mixture, Objectives, Pareto
from mergekit_optimer.page.figures_pool import cosines_between
from mergekit_optimer.page.scales import short
from mergekit_optimer.report import ReportData
from mergekit_optimer.report.numbers import (
    format_duration,
    format_interval,
    format_number,
    format_score,
    format_weight,
)
from mergekit_optimer.report.tables import Table
from mergekit_optimer.scores import Score


def cosine_words(geometry: Geometry) -> str:
    """How near to orthogonal the vectors are; the paper's range beside it (section 5, as reported)."""
    between = cosines_between(geometry.cosines.get("total", {}))
    if not between:
        return "The pool has one vector: there is nothing to be orthogonal to."
    found = sorted(between.values())
    said = (
        f"from {found[0]:.3f} to {found[-1]:.3f}, median {median(found):.3f}" if len(found) > 1 else f"{found[0]:.3f}"
    )
    return f"Cosines between different vectors: {said}. The paper reports 0.03 to 0.31 for its pool; 0 is orthogonal."


def objective_words(objectives: Objectives) -> str:
    """What another objective cost."""
    rows = objectives.rows
    run, adopted = sum(row.n_run for row in rows), sum(row.n_adopted for row in rows)
    return (
        f"{len(rows)} {'study' if len(rows) == 1 else 'studies'} of one pool, with no training between them: {run:,} "
        f"trials scored, {adopted:,} taken over from another study's log. Weights and held-out scores differ with what "
        "was asked for."
    )


def mixture_words(mixture: Mixture, report: ReportData | None) -> tuple[str, ...]:
    """How the shares were made, and whether training on them was better than training on equal ones."""
    said = [f"{mixture.recipe} beside this report's folder trains this mixture at the same total tokens."]
    means = report.comparison.means if report is not None else {}
    equal, optimised = means.get("data_mixture"), means.get("data_mixture/optimised")
    if equal is not None and optimised is not None:
        against = report.mixtures if report is not None else None
        verdict = f"; difference {format_interval(against.mean)}, positive being better" if against is not None else ""
        said.append(
            f"Held-out mean of a training on these shares (data_mixture/optimised): {format_score(optimised)}; on the "
            f"uniform mixture (data_mixture): {format_score(equal)}{verdict}."
        )
    else:
        said.append("Whether a training on these shares beats the uniform mixture is not measured in this run.")
    return tuple(said)


def left_out_remarks(mixture: Mixture) -> tuple[str, ...]:
    """The datasets that no mixture can hold at their weight."""
    return tuple(
        f"{name} (weight {format_weight(one.weight)}) is left out: {one.meaning}"
        for name, one in sorted(mixture.left_out.items())
    )


def attribution_table(attribution: Attribution) -> Table:
    """A row a vector, a column a task."""
    tasks = sorted({task for one in attribution.vectors.values() for task in one.tasks})
    rows = []
    for name, one in sorted(attribution.vectors.items(), key=lambda item: -item[1].mean.difference):
        effects = [one.tasks.get(task) for task in tasks]
        cells = (f"{e.difference:+.4f} ({e.low:+.4f} to {e.high:+.4f})" if e else "–" for e in (*effects, one.mean))
        rows.append((name, format_weight(one.weight), *cells))
    return Table(("vector", "weight", *tasks, "mean"), tuple(rows))


def objectives_table(objectives: Objectives) -> Table:
    """Objectives as rows; what they chose and what it scores as columns."""
    tasks = sorted(objectives.tasks)
    vectors = sorted({name for row in objectives.rows for name in row.weights})
    arrows = {task: "↑" if objectives.tasks[task].higher_is_better else "↓" for task in tasks}
    columns = (f"{task}: {objectives.tasks[task].metric} {arrows[task]}" for task in tasks)
    header = ("study", "objective", *(f"w {name}" for name in vectors), "dev", *columns, "run", "taken over")
    rows = []
    for row in objectives.rows:
        weights = (format_weight(row.weights[name]) if name in row.weights else "–" for name in vectors)
        found = [row.held_out.get(task) for task in tasks]
        scores = (format_score(Score(one.value, one.stderr, one.n)) if one else "–" for one in found)
        rows.append((row.name, row.objective, *weights, format_number(row.dev), *scores, format_number(row.n_run),
                     format_number(row.n_adopted)))  # fmt: skip
    return Table(header, tuple(rows))


def pareto_table(pareto: Pareto) -> Table:
    """The trials of the front with their values and weights."""
    vectors = sorted({name for trial in pareto.front for name in trial.weights})
    rows = tuple(
        (f"#{t.number}", *(f"{t.values[task]:.4f}" for task in pareto.tasks),
         *(format_weight(t.weights[name]) for name in vectors))
        for t in pareto.front
    )  # fmt: skip
    header = ("trial", *(f"{t} {'↑' if pareto.directions.get(t) == 'max' else '↓'}" for t in pareto.tasks),
              *(f"w {name}" for name in vectors))  # fmt: skip
    return Table(header, rows)


def cost_table(cost: Cost) -> Table:
    """Tokens, time and operations of each part."""
    parts = [("pool: a training a dataset", cost.pool), ("search", cost.search), ("one mixture", cost.mixture),
             (f"searching {cost.mixtures_searched:,} mixtures by training", cost.mixtures_total)]  # fmt: skip
    rows = tuple(
        (name, f"{one.tokens:,.0f}", format_duration(one.seconds), f"{short(one.flops, ' ')}FLOP")
        for name, one in parts
        if one is not None
    )
    return Table(("part", "tokens", "time", "operations"), rows)
