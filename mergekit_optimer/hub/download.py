"""Files of the Hub -> blobs of the cache: resumed where a killed process stopped, seen only when the hash is right."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import IO, Any

from mergekit_optimer.errors import DiskError, HubError
from mergekit_optimer.hub.faults import AGAIN, PassingError, Tries
from mergekit_optimer.hub.remote import Remote
from mergekit_optimer.hub.snapshot import HubFile, RepoCache
from mergekit_optimer.machine import disk_problem

log = logging.getLogger(__name__)

_CHUNK_BYTES = 2**20


class StoppedError(Exception):
    """Another file failed, so this one is left as it is."""


@dataclass(frozen=True)
class Download:
    """Files of one commit on their way into the cache.

    Attributes:
        remote: Where they come from.
        cache: Where they go.
        commit: Which they are of.
        on_bytes: Called with the bytes that arrived, below zero where they are taken back.
        stop: Set when those under way are to be left as they are.
    """

    remote: Remote
    cache: RepoCache
    commit: str
    on_bytes: Callable[[int], Any]
    stop: Event = field(default_factory=Event)

    def fetch_all(self, files: list[HubFile], n_parallel: int) -> dict[str, BaseException | None]:
        """Bring blobs in, several at once, until one fails.

        Returns:
            By oid, for each that was begun: what it failed with, None where the blob is there and checked.
        """
        blobs = {file.oid: file for file in files}
        with ThreadPoolExecutor(max_workers=n_parallel) as executor:
            running = {oid: executor.submit(self._fetch_or_stop, file) for oid, file in blobs.items()}
            try:
                wait(running.values(), return_when=FIRST_EXCEPTION)
            finally:
                self.stop.set()
                executor.shutdown(cancel_futures=True)
        return {oid: future.exception() for oid, future in running.items() if not future.cancelled()}

    def _fetch_or_stop(self, file: HubFile) -> None:
        if self.stop.is_set():
            raise StoppedError
        try:
            self.fetch(file)
        except BaseException:
            self.stop.set()
            raise

    def fetch(self, file: HubFile) -> None:
        """Bring one blob in; a blob that is there already, made by another process meanwhile, is checked.

        Raises:
            HubError: Its content is not the listed one twice in a row, or it cannot be had.
            UnreachableError: The Hub failed for longer than the patience.
            DiskError: It cannot be written.
            StoppedError: ``stop`` was set.
        """
        from huggingface_hub.utils import WeakFileLock

        blob, partial, lock = self.cache.blob(file), self.cache.partial(file), self.cache.lock(file)
        try:
            blob.parent.mkdir(parents=True, exist_ok=True)
            lock.parent.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock):
                for attempt in (1, 2):
                    if blob.exists():
                        if file.matches(blob):
                            return
                        blob.unlink()
                    if self._transfer(file, partial):
                        os.replace(partial, blob)
                        return
                    partial.unlink(missing_ok=True)
                    if attempt == 1:
                        log.warning("%s: %s came damaged; fetching it once more", self.remote.name, file.path)
        except OSError as error:
            problem = disk_problem(error)
            if problem is None:
                raise
            raise DiskError(
                f"{file.path} of {self.remote.name} cannot be written to {blob.parent}: {problem}. Free some room, or "
                f"set HF_HOME to another disk; then {AGAIN}."
            ) from error
        kind = "SHA-256" if len(file.oid) == 64 else "git hash"
        raise HubError(
            f"{self.remote.name}: {file.path} came damaged twice (its {kind} is not the {file.oid[:12]}... that the "
            "Hub lists), and nothing of it was kept; run the same command again later, and tell the repository's owner."
        )

    def _transfer(self, file: HubFile, partial: Path) -> bool:
        """Bring a partial file to its end; False where its content is not the listed one."""
        tries = Tries(self.remote.patience, f"{self.remote.name}: {file.path}", self.stop)
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as out:
            digest, position = _resumed(file, out)
            if position:
                self.on_bytes(position)
                log.info("%s: %s goes on at %d of %d bytes", self.remote.name, file.path, position, file.size)
            furthest = position
            while position < file.size:
                try:
                    with self.remote.stream(file, self.commit, position) as response:
                        if response.status_code == 416:
                            return False
                        if position and not _starts_at(response, position):
                            self.on_bytes(-position)
                            out.seek(0)
                            out.truncate()
                            digest, position = file.new_digest(), 0
                        # As they come: what waits for a chunk to fill is lost with the connection.
                        for chunk in response.iter_bytes():
                            if self.stop.is_set():
                                raise StoppedError
                            if position + len(chunk) > file.size:
                                return False
                            out.write(chunk)
                            digest.update(chunk)
                            position += len(chunk)
                            self.on_bytes(len(chunk))
                    if position == file.size:
                        break
                    raise PassingError(f"the answer ended at {position} of {file.size} bytes")
                except PassingError as fault:
                    out.flush()
                    if position > furthest:
                        furthest = position
                        tries.progressed()
                    tries.failed(fault)
                    if self.stop.is_set():
                        raise StoppedError from fault
            out.flush()
            os.fsync(out.fileno())
        return bool(digest.hexdigest() == file.oid)


def _resumed(file: HubFile, out: IO[bytes]) -> tuple[Any, int]:
    """Return digest and length of what a partial file holds; one longer than the file starts anew."""
    digest, position = file.new_digest(), 0
    if os.fstat(out.fileno()).st_size > file.size:
        out.truncate(0)
    while chunk := out.read(_CHUNK_BYTES):
        digest.update(chunk)
        position += len(chunk)
    return digest, position


def _starts_at(response: Any, position: int) -> bool:
    """Whether an answer is the part that was asked for, and not the whole file or another part."""
    content_range = response.headers.get("Content-Range", "")
    return bool(response.status_code == 206) and str(content_range).startswith(f"bytes {position}-")
