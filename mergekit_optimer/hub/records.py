"""What was listed and checked before, in a small folder of our own: nothing is asked for or hashed twice.

A record is a help, never a condition: one that is damaged is as good as none, and a file that changed is hashed again.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit_optimer.files import write_json
from mergekit_optimer.hub.snapshot import HubFile, RepoCache
from mergekit_optimer.machine import user_cache_dir

log = logging.getLogger(__name__)

FORMAT_VERSION = 1


def default_record_dir() -> Path:
    """``$XDG_CACHE_HOME/mergekit-optimer/hub``, of ~/.cache where that is not set."""
    return user_cache_dir() / "hub"


@dataclass
class Records:
    """Lists of files by commit, and which blobs have been checked, of one repository.

    Attributes:
        folder: Where they are kept.
        checked: By oid: size, time and number of the local file that had that content.
    """

    folder: Path
    checked: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, record_dir: Path, cache: RepoCache) -> Records:
        records = cls(record_dir / cache.folder_name)
        records.checked = _read(records._checked_path, "blobs")
        return records

    @property
    def _checked_path(self) -> Path:
        return self.folder / "checked.json"

    def listed(self, commit: str) -> list[HubFile] | None:
        """The files of a commit, None where they were never listed."""
        files = _read(self.folder / f"{commit}.json", "files")
        try:
            return [HubFile(path, int(size), str(oid)) for path, (size, oid) in files.items()] or None
        except (TypeError, ValueError):
            return None

    def set_listed(self, commit: str, files: list[HubFile]) -> None:
        self._write(self.folder / f"{commit}.json", "files", {file.path: [file.size, file.oid] for file in files})

    def is_checked(self, file: HubFile, path: Path) -> bool:
        """Whether this very local file has been found to have the listed content."""
        return self.checked.get(file.oid) == _identity(path)

    def set_checked(self, file: HubFile, path: Path) -> None:
        self.checked[file.oid] = _identity(path)

    def save(self) -> None:
        """Write what was checked, beside what another process wrote meanwhile."""
        before = _read(self._checked_path, "blobs")
        if (now := before | self.checked) != before:
            self._write(self._checked_path, "blobs", now)

    def _write(self, path: Path, key: str, value: dict[str, Any]) -> None:
        try:
            write_json(path, {"format_version": FORMAT_VERSION, key: value})
        except OSError as error:
            log.warning("%s cannot be written (%s); files from the Hub are checked again next time", path, error)


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read(path: Path, key: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.debug("%s is left aside: %s", path, error)
        return {}
    is_ours = isinstance(record, dict) and record.get("format_version") == FORMAT_VERSION
    value = record.get(key) if is_ours else None
    return value if isinstance(value, dict) else {}
