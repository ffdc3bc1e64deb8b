"""A branch, tag or commit of a repository -> the commit it is at. Nothing is fetched, and nothing noted."""

from __future__ import annotations

from pathlib import Path

from mergekit_optimer.errors import HubError
from mergekit_optimer.hub.faults import AGAIN, Patience, UnreachableError
from mergekit_optimer.hub.remote import Remote
from mergekit_optimer.hub.snapshot import Kind, RepoCache, is_commit

DEFAULT_REVISION = "main"


def opened(
    repo: str, revision: str | None, kind: Kind, patience: Patience, cache_dir: Path | None
) -> tuple[Remote, RepoCache]:
    """Return a repository as it is on the Hub and in the cache.

    Raises:
        HubError: It has no name of a repository.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name = f"{repo}@{revision}" if revision else repo
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise HubError(f"{name} is not a repository name (owner/name).") from error
    return Remote(repo, kind, name, patience), RepoCache(cache_dir or Path(constants.HF_HUB_CACHE), repo, kind)


def commit_at(revision: str, remote: Remote, cache: RepoCache) -> str:
    """Return the commit that a revision is at; a commit is its own, with no request.

    Raises:
        HubError: There is none, or the Hub did not say; a commit from the cache is named, and never guessed.
    """
    if is_commit(revision):
        return revision
    try:
        return remote.resolve(revision)
    except UnreachableError as error:
        cached = cache.ref(revision)
        asked = f"Which commit {remote.name} is at cannot be asked ({error})"
        if cached is not None:
            raise HubError(f"{asked}. The cache has it as of {cached}: set that as its revision to use it.") from error
        if commits := cache.commits():
            # Pulled by a commit, so nothing says whose it is.
            raise HubError(
                f"{asked}. The cache has {remote.repo} at {commits[0]}: set that as its revision to use it."
            ) from error
        raise HubError(f"{asked}, and the cache does not have it; {AGAIN}.") from error
