"""huggingface_hub's cache on disk: where a repository's files lie, under names and links that stay inside it.

    <cache>/models--org--base/blobs/<hash of the content>          what was fetched
                              snapshots/<commit>/<file>            links to blobs
                              refs/<branch>                        the commit a branch was at

The layout is huggingface_hub's documented one, so that other programs find what was pulled here, and the reverse.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mergekit_optimer.errors import HubError

log = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]

COMMIT = re.compile(r"[0-9a-f]{40}")
_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CHUNK_BYTES = 2**20


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit and so stays what it is: 40 hex digits."""
    return revision is not None and COMMIT.fullmatch(revision) is not None


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a commit, as the Hub lists it.

    Attributes:
        path: Place in the repository, with / between parts.
        size: Bytes.
        oid: SHA-256 (64 hex digits) of a large file, git's blob SHA-1 (40) of a small one.
    """

    path: str
    size: int
    oid: str

    def new_digest(self) -> Any:
        """A hashlib object that ends at ``oid`` when fed the file's content."""
        if len(self.oid) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def matches(self, path: Path) -> bool:
        """Whether a local file has this content."""
        if path.stat().st_size != self.size:
            return False
        digest = self.new_digest()
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
        return bool(digest.hexdigest() == self.oid)


def is_safe_name(path: str) -> bool:
    """Whether a name in a repository stays inside any folder it is put into, on any disk."""
    return not (
        any(part in ("", ".", "..") or len(part.encode("utf-8", "surrogatepass")) > 255 for part in path.split("/"))
        or any(ord(character) < 32 or character in "\\\x7f" or 0xD800 <= ord(character) <= 0xDFFF for character in path)
        or re.match(r"[A-Za-z]:", path) is not None
    )


def same_on_some_disks(paths: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that are one file where letters' case or form does not count; None where all differ."""
    seen: dict[str, str] = {}
    for path in sorted(paths):
        folded = unicodedata.normalize("NFC", path).casefold()
        if seen.setdefault(folded, path) != path:
            return seen[folded], path
    return None


def checked_file(path: str, size: int, oid: str, name: str) -> HubFile:
    """Return a listed file whose name and hash can safely become paths.

    Raises:
        HubError: They could lead out of the cache, or are no name and hash at all.
    """
    if not is_safe_name(path):
        shown = path if len(path) <= 60 else path[:57] + "..."
        raise HubError(f"{name} lists a file {shown!r}, which is no safe name; nothing was fetched. Tell its owner.")
    if _OID.fullmatch(oid) is None or size < 0:
        raise HubError(f"{name} lists {path} with no usable hash or size; check HF_ENDPOINT.")
    return HubFile(path, size, oid)


@dataclass(frozen=True)
class RepoCache:
    """The cache of one repository.

    Attributes:
        cache_dir: Root of huggingface_hub's cache.
        repo: As owner/name.
        kind: Model or dataset.
    """

    cache_dir: Path
    repo: str
    kind: Kind

    @property
    def folder_name(self) -> str:
        return "--".join([f"{self.kind}s", *self.repo.split("/")])

    @property
    def root(self) -> Path:
        return self.cache_dir / self.folder_name

    def blob(self, file: HubFile) -> Path:
        return self.root / "blobs" / file.oid

    def partial(self, file: HubFile) -> Path:
        """A blob on its way; what a killed process left of it is gone on with."""
        return self.root / "blobs" / f"{file.oid}.incomplete"

    def lock(self, file: HubFile) -> Path:
        """The lock that huggingface_hub takes for the same blob."""
        return self.cache_dir / ".locks" / self.folder_name / f"{file.oid}.lock"

    def snapshot(self, commit: str) -> Path:
        return self.root / "snapshots" / commit

    def commits(self) -> list[str]:
        """The commits that there are files of, the one that was last added to first."""
        found = [path for path in (self.root / "snapshots").glob("*") if is_commit(path.name)]
        return [path.name for path in sorted(found, key=lambda path: (-path.stat().st_mtime, path.name))]

    def place(self, file: HubFile, commit: str) -> Path:
        return self.snapshot(commit) / file.path

    def link(self, file: HubFile, commit: str) -> None:
        """Put a blob into a snapshot, as a relative link; as a copy where the disk knows no links."""
        place = self.place(file, commit)
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f".{file.oid[:16]}.{os.getpid()}.new")
        try:
            new.symlink_to(os.path.relpath(self.blob(file), place.parent))
        except OSError:
            new.unlink(missing_ok=True)
            os.link(self.blob(file), new)
        os.replace(new, place)

    def remove(self, file: HubFile, commit: str) -> None:
        """Remove a damaged file: its link and its blob."""
        self.place(file, commit).unlink(missing_ok=True)
        self.blob(file).unlink(missing_ok=True)

    def ref(self, revision: str) -> str | None:
        """The commit a branch or tag was at when it was last pulled, None where that is not known."""
        path = self._ref_path(revision)
        text = path.read_text(errors="replace").strip() if path and path.is_file() else ""
        return text if COMMIT.fullmatch(text) else None

    def set_ref(self, revision: str, commit: str) -> None:
        """Note what a branch or tag is at; a cache that cannot be written goes without."""
        path = self._ref_path(revision)
        if path is None or self.ref(revision) == commit:
            return
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(commit)
            os.replace(new, path)
        except OSError as error:
            log.debug("%s cannot be written: %s", path, error)

    def _ref_path(self, revision: str) -> Path | None:
        is_safe = "\0" not in revision and not {"", ".", ".."} & set(revision.split("/"))
        return self.root / "refs" / revision if is_safe else None

    def check_links(self, commit: str, name: str) -> None:
        """Refuse a snapshot that leads out of the cache, whatever program made it so.

        Raises:
            HubError: A file or folder in it is a link to somewhere else.
        """
        # Files that several repositories share lie in a folder of the cache itself.
        homes = [Path(os.path.realpath(home)) for home in (self.root / "blobs", self.cache_dir / "blobs")]
        snapshot = self.snapshot(commit)
        entries = [snapshot] if snapshot.is_symlink() else []
        for folder, subfolders, files in os.walk(snapshot):
            entries += [Path(folder, entry) for entry in (*subfolders, *files)]
        for entry in entries:
            target = Path(os.path.realpath(entry))
            if entry.is_symlink() and not any(target.is_relative_to(home) for home in homes):
                raise HubError(
                    f"{name}: {entry} is a link to {target}, outside of the cache; delete {snapshot} and pull again."
                )
