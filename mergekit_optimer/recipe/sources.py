"""Where things of a recipe come from, and the words all its sections are made of. Reads no file."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# A name becomes a folder name and a line of a card: letters, digits, dot, dash and underscore only.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(gt=0)]


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
    """A model folder or repository. Code shipped with a model runs only where the recipe says so."""

    trust_remote_code: bool = False


class TextSource(Source):
    """Documents: .txt (one a file), .jsonl or .parquet, also .xz or .gz, a folder of them, or a Hub dataset."""

    text_field: str = "text"
    split: str = "train"
