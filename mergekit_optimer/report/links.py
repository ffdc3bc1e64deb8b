"""How a table names a place on the Hub: repo@sha as a link. Nothing else is linked, so no name leads elsewhere."""

from __future__ import annotations

import re
from typing import Literal, TypeGuard

HUB_URL = "https://huggingface.co"

# Some of the oldest models have no owner in their name.
_REPO_ID = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)?[A-Za-z0-9_][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# As many digits as the Hub's own pages show of a commit.
_SHOWN_DIGITS = 7


class Linked(str):
    """A cell that begins with a link: a terminal shows the text, a card also where it leads.

    Attributes:
        anchor: The first part of the text, which is the link.
        url: Where it leads; safe as it stands in Markdown.
    """

    anchor: str
    url: str

    def __new__(cls, anchor: str, url: str, rest: str = "") -> Linked:
        cell = super().__new__(cls, anchor + rest)
        cell.anchor, cell.url = anchor, url
        return cell


def is_repo(repo: str | None) -> TypeGuard[str]:
    """Whether a text is a repository's name and nothing else, least of all a path."""
    return repo is not None and _REPO_ID.fullmatch(repo) is not None


def is_pinned(repo: str | None, revision: str | None) -> bool:
    """Whether repository and commit are known, so that anybody gets the very same files."""
    return is_repo(repo) and revision is not None and _COMMIT.fullmatch(revision) is not None


def hub_cell(
    label: str, repo: str | None, revision: str | None, kind: Literal["model", "dataset"] = "model", rest: str = ""
) -> str:
    """Return the cell of a model or dataset: a link to its commit where that is known, else its label.

    Args:
        rest: What follows in the same cell.
    """
    if repo is None or revision is None or not is_pinned(repo, revision):
        return label + rest
    place = f"{HUB_URL}/{'datasets/' if kind == 'dataset' else ''}{repo}/tree/{revision}"
    return Linked(f"{repo}@{revision[:_SHOWN_DIGITS]}", place, rest)


def repo_link(repo: str) -> str:
    """Return a model repository as a link to it as it is now; a text that is none stays text."""
    return Linked(repo, f"{HUB_URL}/{repo}") if is_repo(repo) else repo
