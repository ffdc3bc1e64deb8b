"""ReportData -> the model card of the merged model, from the templates in hub_cards/. Adds no number of its own.

Labels, names and YAML reach a card from recipes, pools and the Hub, so nobody vouches for them. Three things keep them
text: local paths and tokens are taken out first, every value is escaped for the place it stands in, and the metadata
is dumped as YAML and never pasted together.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer.report import ReportData, tables, words
from mergekit_optimer.report.tables import Table
from mergekit_optimer.resources import hub_cards_dir

if TYPE_CHECKING:
    from jinja2 import Environment

TAGS = ("mergekit", "merge", "mergekit-optimer")

# A path that begins at the root, at a home folder or with file://; a slash within a word or a URL begins none.
_LOCAL_PATH = re.compile(
    r"""(?<![\w/.<~])(?:file://|~)?/(?!/)(?:[^\s'"`<>|,;()\[\]{}/]+/)*([^\s'"`<>|,;()\[\]{}/]*)/?"""
)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_MARKDOWN = re.compile(r"([\\`*\[\]~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def render_model_card(report: ReportData) -> str:
    """Return README.md of the merged model: metadata, then what, how, how well, and what not.

    The same report gives the same card, byte for byte.

    Raises:
        jinja2.UndefinedError: A template names a variable that it is not given.
    """
    from markupsafe import Markup

    public = ReportData.from_json(_without_secrets(report.to_json()))
    drawn = {
        "held_out": tables.held_out_table(public),
        "differences": tables.difference_table(public),
        "other_metrics": tables.other_metrics_table(public),
        "dev": tables.dev_table(public),
        "gaps": tables.gap_table(public),
        "weights": tables.weights_table(public),
        "search": tables.search_table(public),
        "timings": tables.timings_table(public),
    }
    return (
        environment(hub_cards_dir())
        .get_template("merged_model.md.jinja")
        .render(
            # From the report as it is: a path without its folders could pass for a repository.
            metadata=Markup(metadata_yaml(public, base_models(report))),
            report=public,
            tables=drawn,
            verdict=words.verdict_sentence(public),
            mean_words=words.mean_sentence(public),
            limits=words.limits(public),
        )
    )


def base_models(report: ReportData) -> list[str]:
    """Hub repositories that the merge is made of, the base model first.

    No local folder is among them: the Hub would link its name to whatever repository is called so.
    """
    candidates = [report.base.repo]
    for vector in report.vectors:
        candidates += [vector.repo, vector.own_base_repo]
    return [repo for repo in dict.fromkeys(candidates) if repo is not None and _REPO_ID.fullmatch(repo)]


def metadata_yaml(report: ReportData, repos: list[str]) -> str:
    """The card's front matter, without its fences."""
    from huggingface_hub import ModelCardData

    merged: dict[str, Any] = {"base_model": repos, "base_model_relation": "merge"} if repos else {}
    data = ModelCardData(
        license=_one_line(report.license),
        language=[_one_line(language) for language in report.language] or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(TAGS),
        **merged,
    )
    return str(data.to_yaml())


def environment(templates_dir: Path) -> Environment:
    """Jinja for cards: an undefined variable fails, and a value printed without a filter is escaped as HTML at least.

    Filters: ``md`` for text in a sentence, ``table`` for a Table, ``fence`` for a code block, ``literal`` for a
    string in Python code.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    env = Environment(
        loader=FileSystemLoader(templates_dir),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters |= {
        "md": lambda text: Markup(escape_markdown(str(text))),
        "table": lambda table: Markup(_markdown_table(table)),
        "fence": lambda text, language: Markup(_fenced(str(text), language)),
        "literal": lambda text: Markup(json.dumps(_one_line(text), ensure_ascii=False)),
    }
    return env


def escape_markdown(text: str) -> str:
    """Make text stand as itself in a Markdown sentence or table cell: one line, no markup, no HTML."""
    text = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Readers disagree on \\\| in a table; none splits a cell at an entity.
    return _MARKDOWN.sub(r"\\\1", text).replace("|", "&#124;")


def _one_line(text: str) -> str:
    return _printable(text).strip()


def _printable(text: str) -> str:
    """Turn line ends, control and direction characters into spaces."""
    return "".join(char if char.isprintable() else " " for char in text)


def _markdown_table(table: Table) -> str:
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(escape_markdown(cell) for cell in line) + " |" for line in lines)


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    lines = "\n".join(_printable(line) for line in text.strip("\n").splitlines())
    longest = max((len(run) for run in re.findall(r"`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{lines}\n{fence}"


def _without_secrets(value: Any) -> Any:
    """Replace local paths by their last part, and Hub tokens, in every string of plain data."""
    if isinstance(value, str):
        return _LOCAL_PATH.sub(r"\1", _TOKEN.sub("[token removed]", value))
    if isinstance(value, dict):
        return {_without_secrets(key): _without_secrets(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(child) for child in value]
    return value
