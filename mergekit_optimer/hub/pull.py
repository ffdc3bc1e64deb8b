"""A repository at a revision -> its snapshot in the cache: listed, room made sure of, fetched in parallel, checked."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from mergekit_optimer.errors import HubError
from mergekit_optimer.hub.download import Download, StoppedError
from mergekit_optimer.hub.faults import AGAIN, Patience, UnreachableError
from mergekit_optimer.hub.records import Records, default_record_dir
from mergekit_optimer.hub.remote import Remote
from mergekit_optimer.hub.revision import DEFAULT_REVISION, commit_at, opened
from mergekit_optimer.hub.room import check_room, in_bytes
from mergekit_optimer.hub.snapshot import HubFile, Kind, RepoCache, same_on_some_disks

log = logging.getLogger(__name__)

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


@dataclass(frozen=True)
class PullOptions:
    """How to pull.

    Attributes:
        patience: How long a failing Hub is borne with.
        cache_dir: Root of the cache; None for huggingface_hub's own.
        record_dir: Where what was checked is remembered; None for the user's cache folder.
        n_parallel: Files fetched at once.
        free_bytes: Room on the disk of a folder.
    """

    patience: Patience = field(default_factory=Patience)
    cache_dir: Path | None = None
    record_dir: Path | None = None
    n_parallel: int = 8
    free_bytes: Callable[[Path], int] = _free_bytes


def pull(
    repo: str,
    revision: str | None,
    kind: Kind,
    patterns: list[str],
    options: PullOptions | None = None,
    pickles: tuple[str, ...] = (),
) -> tuple[Path, str]:
    """Return the folder of a repository's files and the commit they are of, fetched where they are not in the cache.

    At a commit that is in the cache and checked, no request is made. Whatever is returned has the content that the Hub
    lists for that commit.

    Args:
        repo: As owner/name.
        revision: Branch, tag or commit; None for the branch main.
        kind: Model or dataset.
        patterns: Which files are wanted, as shell patterns over the whole path.
        options: How; None for the user's own cache and the usual patience.
        pickles: Which files are wanted as well where a model has no safetensors; without any, it is refused.

    Raises:
        HubError: It cannot be had, in one sentence.
        DiskError: It cannot be written.
    """
    options = options or PullOptions()
    remote, cache = opened(repo, revision, kind, options.patience, options.cache_dir)
    records = Records.read(options.record_dir or default_record_dir(), cache)
    work = _Pull(cache, remote, patterns, options, records, pickles)
    commit = work.resolve(revision or DEFAULT_REVISION)
    cache.check_links(commit, remote.name)
    try:
        work.fill(commit)
    finally:
        work.records.save()
    cache.check_links(commit, remote.name)
    return cache.snapshot(commit), commit


def resolve(repo: str, revision: str | None, kind: Kind, options: PullOptions | None = None) -> str:
    """Return the commit that a branch or tag is at, as a pull of it would; nothing is fetched, and nothing noted.

    Args:
        revision: Branch, tag or commit (which is its own, with no request); None for the branch main.

    Raises:
        HubError: There is none, or the Hub does not say; a commit from the cache is named, and never guessed.
    """
    options = options or PullOptions()
    remote, cache = opened(repo, revision, kind, options.patience, options.cache_dir)
    return commit_at(revision or DEFAULT_REVISION, remote, cache)


@dataclass(frozen=True)
class _Pull:
    cache: RepoCache
    remote: Remote
    patterns: list[str]
    options: PullOptions
    records: Records
    pickles: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.remote.name

    def resolve(self, revision: str) -> str:
        commit = commit_at(revision, self.remote, self.cache)
        if commit == revision:
            return commit
        before = self.cache.ref(revision)
        if before not in (None, commit):
            log.warning("%s has moved from %s to %s; set revision to a commit to stay at it", self.name, before, commit)
        self.cache.set_ref(revision, commit)
        return commit

    def fill(self, commit: str) -> None:
        """See to it that every wanted file is in the snapshot with the content that the Hub lists."""
        files = self.records.listed(commit)
        if files is None:
            try:
                files = self.remote.list_files(commit)
            except UnreachableError as error:
                return self._use_unlisted(commit, error)
            self.records.set_listed(commit, files)
        wanted = self._wanted(files) + self._pickles(files)
        if twins := same_on_some_disks(file.path for file in wanted):
            raise HubError(
                f"{self.name} has {' and '.join(twins)}, which are one file on some disks; nothing was fetched. Tell "
                "its owner."
            )
        missing = [file for file in wanted if not self._is_at_hand(file, commit)]
        if not missing:
            log.info("%s: all %d files are in the cache and checked, at %s", self.name, len(wanted), commit[:12])
            return None
        check_room(missing, self.cache, commit, self.name, self.options.free_bytes)
        try:
            self._fetch(missing, commit, len(wanted))
        except UnreachableError as error:
            raise HubError(
                f"{self.name} is not whole in the cache ({len(missing)} of {len(wanted)} files were missing) and the "
                f"Hub cannot be had: {error}; {AGAIN}."
            ) from error
        return None

    def _wanted(self, files: list[HubFile]) -> list[HubFile]:
        from huggingface_hub.utils import filter_repo_objects

        chosen = filter_repo_objects(files, allow_patterns=self.patterns, key=lambda file: file.path)
        return list(chosen)

    def _pickles(self, files: list[HubFile]) -> list[HubFile]:
        """The weights of a model that has them as pickle only, refused where weights are wanted and pickles are not."""
        from huggingface_hub.utils import filter_repo_objects

        wanted = any(pattern.endswith(".safetensors") for pattern in self.patterns)
        if self.cache.kind != "model" or not wanted or any(file.path.endswith(".safetensors") for file in files):
            return []
        found = list(filter_repo_objects(files, allow_patterns=list(PICKLES), key=lambda file: file.path))
        if found and not self.pickles:
            raise HubError(
                f"{self.name} has its weights as pickle only ({found[0].path}), which can run code when it is loaded; "
                "name a revision with safetensors, or set allow_pickle: true beside it to read its tensors and nothing "
                "else."
            )
        return [file for file in found if any(fnmatch(file.path, pattern) for pattern in self.pickles)]

    def _is_at_hand(self, file: HubFile, commit: str) -> bool:
        """Whether a file is there with the right content; a damaged one is removed, a blob without its link linked."""
        place, blob = self.cache.place(file, commit), self.cache.blob(file)
        for path in (place, blob):
            if not path.is_file():
                continue
            if not self.records.is_checked(file, path):
                if not file.matches(path):
                    log.warning("%s: %s in the cache is damaged; fetching it again", self.name, file.path)
                    self.cache.remove(file, commit)
                    return False
                self.records.set_checked(file, path)
            if path == blob:
                self.cache.link(file, commit)
            return True
        return False

    def _fetch(self, missing: list[HubFile], commit: str, n_wanted: int) -> None:
        from huggingface_hub.utils import tqdm

        total = sum(file.size for file in missing)
        n, at = len(missing), commit[:12]
        log.info("%s: fetching %d of %d files, %s, at %s", self.name, n, n_wanted, in_bytes(total), at)
        bar = tqdm(
            total=total, unit="B", unit_scale=True, desc=self.cache.repo, disable=not sys.stderr.isatty(), leave=False
        )
        with bar:
            download = Download(self.remote, self.cache, commit, bar.update)
            faults = download.fetch_all(missing, self.options.n_parallel)
        for file in missing:
            if faults.get(file.oid, True) is None:
                self.records.set_checked(file, self.cache.blob(file))
                self.cache.link(file, commit)
        # What stopped the others is the cause; they only say that they stopped.
        causes = [fault for fault in faults.values() if fault is not None and not isinstance(fault, StoppedError)]
        if causes:
            raise causes[0]

    def _use_unlisted(self, commit: str, error: UnreachableError) -> None:
        """Use a snapshot that another program made, while the Hub cannot say what belongs to it.

        A blob is named by its hash, so the content is checked all the same.
        """
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(
                self.cache.repo, revision=commit, repo_type=self.cache.kind, cache_dir=self.cache.cache_dir,
                allow_patterns=[*self.patterns, *self.pickles], local_files_only=True,
            )  # fmt: skip
        except FileNotFoundError:
            raise HubError(
                f"{self.name} is not in the cache, or not whole, and the Hub cannot be had ({error}); {AGAIN}."
            ) from error
        snapshot = self.cache.snapshot(commit)
        paths = sorted(path for path in snapshot.rglob("*") if path.is_file())
        plain = [path.name for path in paths if not path.is_symlink()]
        if plain:
            log.warning(
                "%s: %d files are no links to blobs and cannot be checked (%s)", self.name, len(plain), plain[0]
            )
        linked = [
            HubFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, path.readlink().name)
            for path in paths
            if path.is_symlink()
        ]
        wanted = self._wanted(linked) + self._pickles(linked)
        for file in wanted:
            path = snapshot / file.path
            if not self.records.is_checked(file, path) and not file.matches(path):
                raise HubError(f"{self.name}: {path} is damaged and the Hub cannot be had ({error}); {AGAIN}.")
            self.records.set_checked(file, path)
        log.info("%s: the Hub cannot be had (%s); using %d files of the cache", self.name, error, len(wanted))
