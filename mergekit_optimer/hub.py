"""The only module that talks to the Hub: a path or repo@revision of the recipe -> a local folder.

A repository is fetched through huggingface_hub's cache; at a commit sha that is cached already, no request is made.
Tokens come from huggingface_hub's own login and are never read here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mergekit_optimer.errors import HubError
from mergekit_optimer.recipe import ModelSource, Recipe, Source

log = logging.getLogger(__name__)

# Weights as safetensors only: a pickle in a repository can run code when it is loaded.
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja", "LICENSE*")


@dataclass(frozen=True)
class Located:
    """A source at hand.

    Attributes:
        path: Local file or folder.
        repo: Repository it came from; None for a local path.
        revision: Commit sha it is at; None for a local path.
    """

    path: Path
    repo: str | None = None
    revision: str | None = None

    @property
    def label(self) -> str:
        """What a card may say of it: repo@sha, or the last part of a local path (never a path of this machine)."""
        if self.repo is None:
            return self.path.name
        return f"{self.repo}@{self.revision}"


def locate(source: Source, recipe: Recipe, kind: Literal["model", "dataset"]) -> Located:
    """Return a source as a local path, fetched from the Hub where it is a repository.

    Raises:
        HubError: The path does not exist, or the repository or revision cannot be had.
    """
    if source.path is not None:
        path = recipe.resolve(source.path)
        if not path.exists():
            raise HubError(
                f"{path} does not exist; the recipe names it as a {kind} (paths are relative to the recipe)."
            )
        return Located(path)
    assert source.repo is not None
    patterns = None
    if kind == "model":
        code = ["*.py"] if isinstance(source, ModelSource) and source.trust_remote_code else []
        patterns = [*MODEL_FILES, *code]
    return _fetch(source.repo, source.revision, kind, patterns)


def _fetch(repo: str, revision: str | None, kind: Literal["model", "dataset"], patterns: list[str] | None) -> Located:
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"{repo}@{revision}" if revision else repo
    log.info("fetching %s %s", kind, name)
    try:
        folder = snapshot_download(repo, revision=revision, repo_type=kind, allow_patterns=patterns)
    except GatedRepoError as error:
        raise HubError(f"{name} is gated: accept its terms on the Hub, then `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        raise HubError(f"{name} does not exist or is private: check the name, then `hf auth login`.") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision {revision}.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise HubError(f"{name} is not in the cache and the Hub cannot be reached: {_cause(error)}") from error
    except HFValidationError as error:
        raise HubError(f"{name} is not a repository name (owner/name).") from error
    except (HfHubHTTPError, httpx2.HTTPError, ConnectionError) as error:
        raise HubError(f"The Hub did not give {name}: {_cause(error)}") from error
    # A snapshot's folder is named by its commit.
    return Located(Path(folder), repo, Path(folder).name)


def _cause(error: BaseException) -> str:
    """First line of the innermost reason; the client wraps the real one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
