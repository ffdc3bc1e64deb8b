"""Jinja as all cards use it: what a template does not know fails, and what it prints is escaped for its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer.cards.text import escape_markdown, fenced, markdown_cell, markdown_table, one_line
from mergekit_optimer.report import repo_link
from mergekit_optimer.resources import hub_cards_dir

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, metadata: str, **values: Any) -> str:
    """Return a card: the front matter as it is, everything else through the template of hub_cards/.

    Raises:
        jinja2.UndefinedError: The template names a variable that it is not given.
    """
    from markupsafe import Markup

    # Dumped as YAML from data, so there is nothing to escape.
    return environment(hub_cards_dir()).get_template(template).render(metadata=Markup(metadata), **values)


def environment(templates_dir: Path) -> Environment:
    """Jinja for cards: an undefined variable fails, and a value printed without a filter is escaped as HTML at least.

    Filters: ``md`` for text in a sentence, ``cell`` for one that may be a link, ``hub`` for a repository's link,
    ``table`` for a Table, ``fence`` for a code block, ``literal`` for a string in Python code.
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
        "hub": repo_link,
        "cell": lambda cell: Markup(markdown_cell(cell)),
        "table": lambda table: Markup(markdown_table(table)),
        "fence": lambda text, language: Markup(fenced(str(text), language)),
        "literal": lambda text: Markup(json.dumps(one_line(text), ensure_ascii=False)),
    }
    return env
