"""Whether files can be fetched at all, before the first byte: room on the disk, and no file that HTTP does not give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mergekit_optimer.errors import HubError
from mergekit_optimer.hub.snapshot import HubFile, RepoCache


def check_room(
    missing: list[HubFile], cache: RepoCache, commit: str, name: str, free_bytes: Callable[[Path], int]
) -> None:
    """Refuse a download that cannot end well.

    Args:
        missing: What is to be fetched; what is there of it from before counts.
        cache: Where it goes. Its folder is made.
        commit: Which the files are of.
        name: Repository and revision, as the user knows them.
        free_bytes: Room on the disk of a folder.

    Raises:
        HubError: The disk has less room than is missing, or a file is larger than the Hub gives over HTTP.
    """
    from huggingface_hub import constants

    for file in missing:
        if file.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            raise HubError(
                f"{file.path} of {name} has {in_bytes(file.size)}, more than the Hub gives over HTTP; fetch it with "
                f"`hf download --repo-type {cache.kind} --revision {commit} {cache.repo} {file.path}`, then run the "
                "same command again."
            )
    blobs = {file.oid: file for file in missing}.values()
    needed = sum(file.size - _there(cache.partial(file), file.size) for file in blobs)
    cache.root.mkdir(parents=True, exist_ok=True)
    free = free_bytes(cache.root)
    if needed > free:
        raise HubError(
            f"{name} needs {in_bytes(needed)} more on the disk of {cache.cache_dir}, where {in_bytes(free)} are free; "
            "free some room, or set HF_HOME to another disk."
        )


def in_bytes(n_bytes: int) -> str:
    """A size for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"


def _there(partial: Path, size: int) -> int:
    return min(partial.stat().st_size, size) if partial.is_file() else 0
