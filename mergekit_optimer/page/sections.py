"""The sections of the page in their order: which figures and tables stand where, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable

from mergekit_optimer.page import figures_around, figures_findings, figures_pool, figures_scores, figures_search
from mergekit_optimer.page.data import Code, Gap, PageData, Section, ShownTable
from mergekit_optimer.page.figure import Figure
from mergekit_optimer.page.findings import (
    attribution_table,
    cosine_words,
    cost_table,
    left_out_remarks,
    mixture_words,
    objective_words,
    objectives_table,
    pareto_table,
)
from mergekit_optimer.report import tables
from mergekit_optimer.report.numbers import format_duration
from mergekit_optimer.report.tables import Table
from mergekit_optimer.report.words import limits, mean_sentence

# What may be missing, in the order in which it is made: name of the command -> what it would show.
_GAPS = {
    "search": "The search and its winner",
    "compare": "Held-out scores, the winner against the baselines",
    "geometry": "Cosines and norms of the vectors",
    "trajectory": "Trajectory linearity",
    "landscape": "The objective around the winner",
    "attribution": "What each vector brings",
    "objectives": "Other objectives over the same pool",
    "mixture": "The weights as a data mixture",
    "cost": "What it cost, against training mixtures",
}


def page_sections(data: PageData) -> list[Section]:
    """The sections that have something to show."""
    found = (_result(data), _search(data), _pool(data), _landscape(data), _attribution(data), _objectives(data),
             _mixture(data), _cost(data), _limits(data), _made(data))  # fmt: skip
    return [section for section in found if section is not None]


def page_gaps(data: PageData) -> list[Gap]:
    """What there is nothing of, each with the command that makes it."""
    made = data.analyses
    there = {
        "compare": data.report is not None,
        "search": data.winner is not None,
        **{name: getattr(made, name, None) is not None for name in ("geometry", "trajectory", "landscape",
                                                                   "attribution", "objectives", "mixture", "cost")},
    }  # fmt: skip
    return [
        Gap(title, data.reasons.get(name, ""), data.commands[name])
        for name, title in _GAPS.items()
        if not there[name] and name in data.commands
    ]


def _figures(*found: Figure | None) -> tuple[Figure, ...]:
    return tuple(figure for figure in found if figure is not None)


def _shown(title: str, table: Table, note: str = "", folded: bool = False) -> tuple[ShownTable, ...]:
    return (ShownTable(title, table, note, folded=folded),) if table.rows else ()


def _result(data: PageData) -> Section | None:
    report = data.report
    if report is None:
        return None
    drawn = _figures(figures_scores.differences_figure(report), figures_scores.dev_held_out_figure(report))
    return Section(
        "result", "Result", (mean_sentence(report),), drawn,
        (*_shown("Held-out scores", tables.held_out_table(report)),
         *_shown("Held-out scores in other metrics", tables.other_metrics_table(report), folded=True),
         *_shown("Winner minus baseline, task by task", tables.difference_table(report), folded=True),
         *_shown("Dev scores", tables.dev_table(report), "They chose the winner, and are not comparable with held-out "
                 "scores.", folded=True),
         *_shown("Held-out minus dev", tables.gap_table(report), "The two sets differ in difficulty: read the winner's "
                 "beside the base model's, which nobody selected.", folded=True)),
    )  # fmt: skip


def _search(data: PageData) -> Section | None:
    drawn = _figures(figures_search.search_figure(data), figures_search.weights_figure(data),
                     figures_search.top_trials_figure(data))  # fmt: skip
    pareto = data.analyses.pareto
    more = figures_around.pareto_figures(pareto) if pareto is not None else []
    shown: tuple[ShownTable, ...] = ()
    if data.report is not None:
        shown = (
            ShownTable("Merge weights of the winner", tables.weights_table(data.report)),
            ShownTable("How it was searched", tables.search_table(data.report), sortable=False, folded=True),
        )
    if pareto is not None:
        shown += _shown("The front", pareto_table(pareto))
    if not drawn and not more:
        return None
    return Section("search", "Search", (f"Maximised: {data.objective}.",), (*drawn, *more), shown)


def _pool(data: PageData) -> Section | None:
    geometry, trajectory = data.analyses.geometry, data.analyses.trajectory
    drawn: tuple[Figure | None, ...] = ()
    sentences: tuple[str, ...] = ()
    if geometry is not None:
        drawn = (figures_pool.cosines_figure(geometry), figures_pool.norms_figure(geometry),
                 figures_pool.cosines_by_layer_figure(geometry))  # fmt: skip
        sentences = (cosine_words(geometry),)
    if trajectory is not None:
        drawn = (*drawn, *figures_pool.trajectory_figures(trajectory))
    said = trajectory.meaning.values() if trajectory is not None else ()
    kept = _figures(*drawn)
    return Section("pool", "Vectors", sentences, kept, remarks=tuple(one.sentence for one in said)) if kept else None


def _landscape(data: PageData) -> Section | None:
    landscape = data.analyses.landscape
    if landscape is None:
        return None
    drawn = _figures(figures_around.slices_figure(landscape), figures_around.plane_figure(landscape, data))
    said = f"The objective ({landscape.objective_words}) on {landscape.n_samples:,} dev samples of each task."
    return Section("landscape", "Landscape", (said,), drawn)


def _attribution(data: PageData) -> Section | None:
    found = data.analyses.attribution
    if found is None:
        return None
    drawn = _figures(figures_findings.attribution_figure(found), figures_findings.importances_figure(found))
    shown = _shown("Winner minus winner without the vector, held-out", attribution_table(found), folded=True)
    return Section("attribution", "Attribution", (), drawn, shown)


def _objectives(data: PageData) -> Section | None:
    found = data.analyses.objectives
    if found is None:
        return None
    shown = _shown("One pool, several objectives", objectives_table(found))
    return Section(
        "objectives",
        "Objectives",
        (objective_words(found),),
        _figures(figures_findings.objectives_figure(found)),
        shown,
    )


def _mixture(data: PageData) -> Section | None:
    found = data.analyses.mixture
    if found is None:
        return None
    scores = figures_findings.mixture_scores_figure(data.report) if data.report is not None else None
    drawn = _figures(figures_findings.mixture_figure(found), scores)
    return Section("mixture", "Mixture", mixture_words(found, data.report), drawn, remarks=left_out_remarks(found))


def _cost(data: PageData) -> Section | None:
    found = data.analyses.cost
    if found is None:
        return None
    shown = _shown("Cost", cost_table(found), found.formula)
    return Section("cost", "Cost", (figures_findings.cost_words(found),), (figures_findings.cost_figure(found),), shown)


def _limits(data: PageData) -> Section | None:
    return None if data.report is None else Section("limits", "Limits", remarks=tuple(limits(data.report)))


def _made(data: PageData) -> Section | None:
    report = data.report
    if report is None:
        if not data.stages:
            return None
        rows = tuple((name, format_duration(seconds)) for name, seconds in sorted(data.stages.items()))
        return Section("made", "Done so far", tables=(ShownTable("Stages", Table(("stage", "time"), rows)),))
    facts = (
        ("base model", report.base.label), ("weights stored as", report.dtype), ("device", report.device),
        ("seed", str(report.seed)), ("recipe hash", report.recipe_hash), ("licence", report.license),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
    )  # fmt: skip
    codes = [Code("Command", report.command, True), Code("merge.yaml, for mergekit with this package", report.yaml)]
    if report.portable_yaml is not None:
        codes.append(Code("merge.portable.yaml, for plain mergekit", report.portable_yaml))
    return Section(
        "made", "How to make it again", codes=tuple(codes),
        tables=(ShownTable("Facts", Table(("what", ""), facts), sortable=False, folded=True),
                ShownTable("Time", tables.timings_table(report), folded=True)),
    )  # fmt: skip


def all_figures(sections: Iterable[Section]) -> list[Figure]:
    return [figure for section in sections for figure in section.figures]
