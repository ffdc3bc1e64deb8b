"""Text of nobody knows whom -> text that stands as itself on a card: escaped for its place, no local path, no token."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from mergekit_optimer.report import Linked
from mergekit_optimer.report.tables import Table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Facts = TypeVar("Facts", bound=DataclassInstance)

# A path that begins at the root, at a home folder or with file://; a slash within a word or a URL begins none.
_LOCAL_PATH = re.compile(
    r"""(?<![\w/.<~])(?:file://|~)?/(?!/)(?:[^\s'"`<>|,;()\[\]{}/]+/)*([^\s'"`<>|,;()\[\]{}/]*)/?"""
)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_MARKDOWN = re.compile(r"([\\`*\[\]~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def public(facts: Facts) -> Facts:
    """Return facts ``without_secrets``."""
    return TypeAdapter(type(facts)).validate_python(without_secrets(asdict(facts)))


def without_secrets(value: Any) -> Any:
    """Return plain data with local paths replaced by their last part, and without Hub tokens, in every string."""
    if isinstance(value, str):
        return _LOCAL_PATH.sub(r"\1", _TOKEN.sub("[token removed]", value))
    if isinstance(value, dict):
        return {without_secrets(key): without_secrets(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(child) for child in value]
    return value


def one_line(text: str) -> str:
    """Turn line ends, control and direction characters into spaces, and trim the ends."""
    return _printable(text).strip()


def escape_markdown(text: str) -> str:
    """Make text stand as itself in a Markdown sentence or table cell: one line, no markup, no HTML."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Readers disagree on \\\| in a table; none splits a cell at an entity.
    return _MARKDOWN.sub(r"\\\1", text).replace("|", "&#124;")


def markdown_table(table: Table) -> str:
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(markdown_cell(cell) for cell in line) + " |" for line in lines)


def markdown_cell(cell: str) -> str:
    """A cell's text, escaped; of one that begins with a link, the link too."""
    if not isinstance(cell, Linked):
        return escape_markdown(cell)
    rest = cell[len(cell.anchor) :]
    space = " " if rest.startswith(" ") else ""
    return f"[{escape_markdown(cell.anchor)}]({cell.url}){space}{escape_markdown(rest)}"


def fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    lines = "\n".join(_printable(line) for line in text.strip("\n").splitlines())
    longest = max((len(run) for run in re.findall(r"`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{lines}\n{fence}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
