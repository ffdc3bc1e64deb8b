"""A source of the recipe -> a local folder: a path as it stands, or a repository pulled from the Hub.

Where the recipe allows it, weights that are there as pickle only are first written as safetensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mergekit_optimer.errors import HubError
from mergekit_optimer.hub.pickles import PICKLED_WEIGHTS, without_pickles
from mergekit_optimer.hub.pull import PullOptions, pull
from mergekit_optimer.hub.snapshot import Kind
from mergekit_optimer.recipe import ModelSource, Recipe, Source

# Weights as safetensors only: a pickle in a repository can run code when it is loaded.
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja", "LICENSE*")
# All that a LoRA adapter is.
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
# What corpora can read, and what says whose it is. No script, no archive, no picture.
_TEXT_FILES = ("*.txt", "*.jsonl", "*.json", "*.parquet")
DATASET_FILES = (*_TEXT_FILES, *(f"{name}.{suffix}" for suffix in ("xz", "gz") for name in _TEXT_FILES),
                 "README.md", "LICENSE*")  # fmt: skip


@dataclass(frozen=True)
class Located:
    """A source at hand.

    Attributes:
        path: Local file or folder.
        repo: Repository it came from; None for a local path.
        revision: Commit sha it is at; None for a local path.
        origin: What the recipe names, where ``path`` was made from it.
    """

    path: Path
    repo: str | None = None
    revision: str | None = None
    origin: Path | None = None

    @property
    def label(self) -> str:
        """What a card may say of it: repo@sha, or the last part of a local path (never a path of this machine)."""
        if self.repo is None:
            return (self.origin or self.path).name
        return f"{self.repo}@{self.revision}"


def locate(
    source: Source,
    recipe: Recipe,
    kind: Kind,
    options: PullOptions | None = None,
    files: tuple[str, ...] | None = None,
) -> Located:
    """Return a source as a local path, fetched from the Hub where it is a repository; asked again, the same one.

    Args:
        source: Of the recipe.
        recipe: For what its paths are relative to.
        kind: What the repository is, and so which of its files are fetched.
        options: How to pull; None for the user's own cache and the usual patience.
        files: Shell patterns of the files that are wanted; None for those of the kind.

    Raises:
        HubError: The path does not exist, the repository or revision cannot be had, a pickle cannot be read, or code
            that is trusted lies in another repository.
        DiskError: The cache cannot be written.
    """
    wanted = files or (MODEL_FILES if kind == "model" else DATASET_FILES)
    may_unpickle = isinstance(source, ModelSource) and source.allow_pickle
    if isinstance(source, ModelSource) and source.trust_remote_code:
        wanted = (*wanted, "*.py")
    if source.path is not None:
        path = recipe.resolve(source.path)
        if not path.exists():
            raise HubError(
                f"{path} does not exist; the recipe names it as a {kind} (paths are relative to the recipe)."
            )
        found = Located(path)
    else:
        assert source.repo is not None
        found = _pulled(source.repo, source.revision, kind, wanted, options, may_unpickle)
    if isinstance(source, ModelSource) and source.trust_remote_code:
        _check_code_is_here(found.path, str(source))
    if not may_unpickle:
        return found
    folder = without_pickles(found.path, str(source), wanted)
    return found if folder == found.path else Located(folder, found.repo, found.revision, found.path)


def _check_code_is_here(folder: Path, name: str) -> None:
    """Refuse code that lies in a repository: transformers would run it at its newest commit, which nobody has read."""
    for file in ("config.json", "tokenizer_config.json"):
        try:
            found = json.loads((folder / file).read_text(encoding="utf-8"))["auto_map"].values()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        for reference in (part for value in found for part in (value if isinstance(value, list) else [value])):
            if "--" in str(reference):
                raise HubError(
                    f"{file} of {name} takes its code from the repository {str(reference).partition('--')[0]!r}, and "
                    "trust_remote_code is for what lies beside the weights; put code and weights into one folder or "
                    "repository, and name that."
                )


@cache
def _pulled(
    repo: str,
    revision: str | None,
    kind: Kind,
    patterns: tuple[str, ...],
    options: PullOptions | None,
    may_unpickle: bool,
) -> Located:
    """Pull once in a process: a branch that moves during a run does not give it two commits."""
    instead = PICKLED_WEIGHTS if may_unpickle else ()
    folder, commit = pull(repo, revision, kind, list(patterns), options, instead)
    return Located(folder, repo, commit)
