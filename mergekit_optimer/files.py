"""Whole files and folders: written beside their target and renamed, so a reader never sees half of one.

Whatever kills the writer leaves the old file, or the new, and perhaps a temporary neighbour that is swept later.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import DiskError, RunFolderError
from mergekit_optimer.machine import disk_problem

# Files and folders in the making start with this; what a killed process left of them is swept.
TEMPORARY = ".tmp-"


def write_text(path: Path, text: str) -> None:
    """Write a text file at once, as ``write_bytes`` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file at once: a temporary neighbour, flushed to disk, then a rename. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write plain data as JSON at once. NaN and Inf are refused: they are no JSON and no score."""
    write_text(path, to_json_text(value))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV at once; None is an empty cell, and a float keeps all its digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, out.getvalue())


def to_json_text(value: Any) -> str:
    """Plain data as the JSON text that ``write_json`` writes."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file that this package wrote.

    Raises:
        RunFolderError: It is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is not there; run the stage that writes it first.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); delete it and run the stage that writes it.") from error


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of plain data; equal data hash equal whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target`` on success and vanishes on failure.

    Raises:
        RunFolderError: ``target`` exists: a folder used twice could keep a stale shard of an earlier model.
        DiskError: The disk is full, or cannot be written.
    """
    if target.exists():
        raise RunFolderError(f"{target} exists; delete it or name another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{TEMPORARY}{target.name}."))
    try:
        yield work
        # Weight files are written with mode 0600 and the folder with 0700; a pool is shared.
        os.chmod(work, 0o755)
        for file in work.rglob("*"):
            os.chmod(file, 0o755 if file.is_dir() else 0o644)
        work.rename(target)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        reason = disk_problem(error)
        if reason is None:
            raise
        raise DiskError(
            f"{target} cannot be written: {reason}. Mend that, then run the same command again: it goes on."
        ) from error


def named_here(path: Path) -> str | None:
    """A path as a command in the working folder would name it; None where it lies elsewhere."""
    here, whole = Path.cwd(), path.resolve()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else None


def discard(path: Path) -> None:
    """Delete a folder or a file; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link_folder(source: Path, target: Path) -> None:
    """Make ``target`` a folder of the same files, linked where the file system can, else copied.

    Links are safe here: a file of a run is replaced by a rename, never written into.

    Raises:
        RunFolderError: ``target`` exists.
    """
    with new_folder(target) as work:
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            place = work / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:
                shutil.copyfile(file, place)
