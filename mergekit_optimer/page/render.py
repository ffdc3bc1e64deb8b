"""PageData -> index.html, one file that asks for nothing, and of each figure its CSV and its own SVG. Reads no run."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from mergekit_optimer.compare import BASE, WINNER
from mergekit_optimer.page.data import PageData, Section, ShownTable, Tile
from mergekit_optimer.page.sections import all_figures, page_gaps, page_sections
from mergekit_optimer.report import Linked, verdict_sentence
from mergekit_optimer.report.numbers import format_duration, format_interval, format_number, format_score
from mergekit_optimer.scores import Score

_TEMPLATES = Path(__file__).resolve().parent / "templates"


class Page(NamedTuple):
    """The rendered page: its HTML, and by the figure's name the text of its CSV and of its file."""

    html: str
    csvs: dict[str, str]
    svgs: dict[str, str]


def render_page(data: PageData) -> Page:
    """Render the page; the same data give the same bytes.

    Every name is escaped where it stands, and the page's own policy lets no script but its own run and nothing be
    fetched.

    Raises:
        jinja2.UndefinedError: The template names a variable that it is not given.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    sections = page_sections(data)
    env = Environment(loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, autoescape=True,
                      trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
    figure_style, page_style, script = (
        (_TEMPLATES / name).read_text(encoding="utf-8") for name in ("figure.css", "page.css", "page.js")
    )
    page = {
        "name": data.name,
        "lead": _lead(data),
        "verdict": _verdict(data),
        "tiles": _tiles(data),
        "sections": [_plain(section) for section in sections],
        "missing": page_gaps(data),
    }
    html = env.get_template("page.html.jinja").render(
        page=page, style=Markup(figure_style + page_style), script=Markup(script), policy=_policy(script)
    )
    figures = all_figures(sections)
    return Page(html, {one.name: one.csv for one in figures}, {one.name: one.alone(figure_style) for one in figures})


def _policy(script: str) -> str:
    """Nothing is fetched; only this script runs."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _lead(data: PageData) -> list[str]:
    """The first sentences: what must be known, the verdict, or how far the run is."""
    note = [data.note] if data.note else []
    if data.report is not None:
        return [*note, verdict_sentence(data.report)]
    trials = f"{format_number(len(data.trials))} {'trial is' if len(data.trials) == 1 else 'trials are'} scored"
    if data.winner is not None:
        said = f"the winner is #{data.winner}, but nothing says how good it is on held-out samples."
    else:
        said = "there is no winner yet."
    return [*note, f"This run is not finished: {trials}, and {said}"]


def _verdict(data: PageData) -> str:
    if data.report is None or data.note:
        return "note"
    return data.report.comparison.verdict if data.report.comparison.verdict in ("better", "worse") else "unclear"


def _tiles(data: PageData) -> list[Tile]:
    report = data.report
    if report is None:
        best = max((trial.value for trial in data.trials if trial.state == "scored"), default=None)
        if best is None:
            return []
        return [
            Tile("trials", format_number(len(data.trials))),
            Tile("best objective so far", f"{best:.4f}", more="on the dev set"),
        ]
    comparison = report.comparison
    metrics = {report.tasks["held_out"][task].metric for task in comparison.tasks}
    arrow = "higher is better" if comparison.mean_higher_is_better else "lower is better"
    what = next(iter(metrics)) if comparison.mean_of == "scores" else f"gain over {BASE}"
    best_name = comparison.best_baseline
    n = sum(report.tasks["held_out"][task].n for task in comparison.tasks)
    return [
        Tile("winner, held-out mean", *_parts(comparison.means[WINNER]), f"{what}, {arrow}"),
        Tile(f"best baseline: {best_name}", *_parts(comparison.means[best_name]),
             f"winner {format_interval(comparison.baselines[best_name].mean)}"),
        Tile("base model", *_parts(comparison.means[BASE]),
             f"winner {format_interval(comparison.baselines[BASE].mean)}"),
        Tile("trials", format_number(report.search.n_trials), more=f"then {format_number(n)} held-out samples"),
        Tile("time", format_duration(report.timings.get("total_s", 0.0)), more=f"on {report.device}"),
    ]  # fmt: skip


def _parts(score: Score) -> tuple[str, str]:
    """A score's value and its error apart."""
    value, _, error = format_score(score).partition(" ")
    return value, error


def _plain(section: Section) -> dict[str, Any]:
    return {
        "name": section.name,
        "title": section.title,
        "sentences": section.sentences,
        "figures": section.figures,
        "tables": [_table(shown) for shown in section.tables],
        "remarks": section.remarks,
        "codes": section.codes,
    }


def _table(shown: ShownTable) -> dict[str, Any]:
    """A table for the template; one metric and n for all tasks is said once, in the heading."""
    header = [column.partition(": ") for column in shown.table.header]
    facts = {fact for _, colon, fact in header if colon}
    title = shown.title
    if len(facts) == 1 and sum(bool(colon) for _, colon, _ in header) > 1:
        title += f" ({facts.pop()})"
        header = [(name, "", "") for name, _, _ in header]
    return {
        "title": title,
        "note": shown.note,
        "sortable": shown.sortable,
        "folded": shown.folded,
        "header": [{"name": name, "fact": fact} for name, _, fact in header],
        "rows": [[_cell(cell) for cell in row] for row in shown.table.rows],
    }


def _cell(cell: str) -> dict[str, str]:
    if isinstance(cell, Linked):
        return {"text": str(cell), "url": cell.url, "anchor": cell.anchor, "rest": cell[len(cell.anchor) :]}
    # An interval goes below its number.
    text, bracket, more = cell.partition(" (")
    split = bool(bracket) and text[:1] in "+-0123456789"
    return {"text": text if split else cell, "url": "", "anchor": "", "rest": f"({more}" if split else ""}
