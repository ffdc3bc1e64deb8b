"""Where things of a recipe come from, and the words all its sections are made of. Reads no file."""

from __future__ import annotations

import operator
import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# A name becomes a folder name and a line of a card: letters, digits, dot, dash and underscore only.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=_NAME)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(gt=0)]


_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_name(text: str) -> bool:
    """Whether a text from elsewhere can be a name in a recipe."""
    return re.fullmatch(_NAME.strip("^$"), text) is not None


class Section(BaseModel):
    """A part of the recipe: frozen, typed strictly, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Section):
    """Where files come from: a local path (relative to the recipe) or a Hub repository at a revision."""

    path: str | None = None
    repo: str | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.path is None) == (self.repo is None):
            raise ValueError("give either path or repo")
        if self.revision is not None and self.repo is None:
            raise ValueError("revision belongs to repo, not to path")
        return self

    def __str__(self) -> str:
        if self.repo is None:
            return str(self.path)
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


class ModelSource(Source):
    """A model folder or repository. Code shipped with it runs, and a pickle is read, only where the recipe says so."""

    trust_remote_code: bool = False
    # Left out of the canonical recipe where it is false, so that runs made before there was such a key can go on.
    allow_pickle: bool = Field(default=False, exclude_if=operator.not_)

    @model_validator(mode="after")
    def _runs_only_code_that_was_read(self) -> Self:
        if self.trust_remote_code and self.repo is not None and not _COMMIT.fullmatch(self.revision or ""):
            raise ValueError("trust_remote_code runs code of that repository: pin it with revision: <commit sha>")
        return self


class TextSource(Source):
    """Documents: .txt (one a file), .jsonl or .parquet, also .xz or .gz, a folder of them, or a Hub dataset."""

    text_field: str = "text"
    split: str = "train"
