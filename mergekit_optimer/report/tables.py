"""ReportData -> tables of plain text, the same for the terminal and the card: they only differ in how they draw."""

from __future__ import annotations

from dataclasses import dataclass

from mergekit_optimer.compare import BASE, WINNER
from mergekit_optimer.report.build import primary_score
from mergekit_optimer.report.data import Part, ReportData
from mergekit_optimer.report.links import hub_cell
from mergekit_optimer.report.numbers import (
    format_difference,
    format_duration,
    format_interval,
    format_number,
    format_score,
    format_weight,
)


@dataclass(frozen=True)
class Table:
    """Cells of plain text, unescaped, or ``Linked``. Rows are as long as the header; the first column names the row."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def held_out_table(report: ReportData) -> Table:
    """Winner, then the baselines by their mean; a column a task, then the mean."""
    tasks = report.comparison.tasks
    header = ("model", *(_task_header(report, "held_out", task) for task in tasks), _mean_header(report))
    rows = []
    for model in (WINNER, *report.comparison.ranking):
        cells = (_score_cell(report, "held_out", model, task) for task in tasks)
        rows.append((model, *cells, format_score(report.comparison.means[model])))
    return Table(header, tuple(rows))


def difference_table(report: ReportData) -> Table:
    """Winner minus each baseline with its 95 % interval; positive where the winner is better."""
    tasks = report.comparison.tasks
    rows = []
    for model in report.comparison.ranking:
        against = report.comparison.baselines[model]
        cells = (format_interval(against.tasks[task]) for task in tasks)
        rows.append((model, *cells, format_interval(against.mean), against.verdict))
    return Table(("winner against", *tasks, "mean", "winner is"), tuple(rows))


def dev_table(report: ReportData) -> Table:
    """Scores on the dev set, which chose the winner. No mean: the objective is what was maximised."""
    scores = report.scores["dev"]
    tasks = tuple(report.tasks["dev"])
    ordered = [model for model in (WINNER, *report.comparison.ranking) if model in scores]
    others = sorted(set(scores) - set(ordered))
    header = ("model", *(_task_header(report, "dev", task) for task in tasks))
    rows = tuple(
        (model, *(_score_cell(report, "dev", model, task) if task in scores[model] else "–" for task in tasks))
        for model in (*ordered, *others)
    )
    return Table(header, rows)


def gap_table(report: ReportData) -> Table:
    """Held-out minus dev of the winner and of the base model, which nobody selected."""
    models = [model for model in (WINNER, BASE) if model in report.comparison.gaps]
    tasks = sorted({task for model in models for task in report.comparison.gaps[model]})
    rows = []
    for task in tasks:
        gaps = [report.comparison.gaps[model].get(task) for model in models]
        rows.append((task, *(format_difference(gap.difference, gap.stderr) if gap else "–" for gap in gaps)))
    return Table(("task", *models), tuple(rows))


def other_metrics_table(report: ReportData) -> Table:
    """Held-out scores in the metrics that are no task's primary one; no row where there are none."""
    columns = [
        (task, metric)
        for task in report.comparison.tasks
        for metric in sorted(report.scores["held_out"][WINNER][task])
        if metric != report.tasks["held_out"][task].metric
    ]
    if not columns:
        return Table(("model",), ())
    rows = []
    for model in (WINNER, *report.comparison.ranking):
        scores = report.scores["held_out"][model]
        found = [scores[task].get(metric) for task, metric in columns]
        rows.append((model, *(format_score(score) if score else "–" for score in found)))
    return Table(("model", *(f"{task}: {metric}" for task, metric in columns)), tuple(rows))


def weights_table(report: ReportData) -> Table:
    """The winner's weight of each vector, with a mark where it lies at a bound of its interval."""
    header = ("vector", "weight", "searched in", "from", "data", "tokens", "steps", "learning rate", "norm",
              "relative norm", "applied")  # fmt: skip
    rows = []
    for vector in report.vectors:
        low, high = report.search.intervals[vector.name]
        mark = f" (at the {_bound_word(vector.at_bound)} bound)" if vector.at_bound else ""
        over = f" over {vector.own_base}" if vector.own_base else ""
        data = hub_cell(vector.dataset or "–", vector.dataset_repo, vector.dataset_revision, "dataset")
        numbers = (vector.n_tokens, vector.n_steps, vector.learning_rate, vector.norm, vector.relative_norm,
                   vector.applied_fraction)  # fmt: skip
        rows.append(
            (
                vector.name,
                format_weight(vector.weight) + mark,
                f"{format_number(low)} to {format_number(high)}",
                hub_cell(vector.label, vector.repo, vector.revision, rest=over),
                data,
                *(format_number(number) for number in numbers),
            )
        )
    return Table(header, tuple(rows))


def search_table(report: ReportData) -> Table:
    """How the winner was searched, a fact a row."""
    search = report.search
    options = ", ".join(f"{name}={value}" for name, value in sorted(search.options.items()))
    rungs = "; ".join(
        f"{format_number(rung.n_samples)} samples of each task"
        + ("" if rung.top is None else f" for the best {format_number(rung.top)}")
        for rung in search.rungs
    )
    samples = format_number(search.rungs[-1].n_samples)
    objective_on = f"its objective on up to {samples} dev samples, lower-is-better tasks negated"
    trials = format_number(search.n_trials)
    if search.n_adopted:
        trials += f", {format_number(search.n_adopted)} of them scored before, in another study"
    if search.ended_flat:
        trials += "; ended early, as the best no longer rose"
    raced = (("stopped by the race", format_number(search.n_raced_out)),) if search.n_raced_out else ()
    climbed: tuple[tuple[str, str], ...] = ()
    if search.gradient is not None:
        said = f"{search.gradient.n_evaluations} evaluations of value and slope, the cost of "
        climbed = (("gradient", f"{said}{format_number(search.gradient.sample_cost)} trials"),)
    return Table(
        ("search", ""),
        (
            ("objective", search.objective),
            ("sampler", f"{search.sampler} ({options})" if options else search.sampler),
            ("trials", trials),
            *raced,
            *climbed,
            ("collapsed trials", format_number(search.n_collapsed)),
            ("failed trials", format_number(search.n_failed)),
            ("warm starts among them", ", ".join(search.warm_starts) or "none"),
            ("dev samples", rungs),
            ("best trial", f"#{search.best_trial}"),
            (objective_on, format_number(search.best_value)),
            ("seed", str(report.seed)),
            ("started", search.started),
            ("finished", search.finished),
        ),
    )


def timings_table(report: ReportData) -> Table:
    """How long each stage took on which device."""
    rows = tuple(
        (name.removesuffix("_s").replace("_", " "), format_duration(seconds))
        for name, seconds in sorted(report.timings.items(), key=lambda item: (item[0] == "total_s", item[0]))
    )
    return Table(("stage", f"time on {report.device}"), rows)


def _task_header(report: ReportData, part: Part, task: str) -> str:
    facts = report.tasks[part][task]
    return f"{task}: {facts.metric} {_arrow(facts.higher_is_better)} n={format_number(facts.n)}"


def _mean_header(report: ReportData) -> str:
    what = "mean" if report.comparison.mean_of == "scores" else f"mean gain over {BASE}"
    return f"{what} {_arrow(report.comparison.mean_higher_is_better)}"


def _arrow(higher_is_better: bool) -> str:
    return "↑" if higher_is_better else "↓"


def _score_cell(report: ReportData, part: Part, model: str, task: str) -> str:
    text = format_score(primary_score(report, part, model, task))
    fell = part == "held_out" and task in report.comparison.collapsed.get(model, ())
    return f"{text} (collapsed)" if fell else text


def _bound_word(bound: str) -> str:
    return {"low": "lower", "high": "upper"}[bound]
