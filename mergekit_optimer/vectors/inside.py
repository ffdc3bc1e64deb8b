"""Files of a folder that came from elsewhere: no name and no link leads out of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mergekit_optimer.errors import VectorError

_DRIVE = re.compile(r"[A-Za-z]:")


def checked_file_name(name: str) -> str | None:
    """Return a name that is a file of the folder itself on every system; None for any other text."""
    is_plain = name.isprintable() and not set("/\\") & set(name) and name not in ("", ".", "..")
    return name if is_plain and not _DRIVE.match(name) and len(name.encode()) <= 255 else None


def file_inside(folder: Path, name: str) -> Path:
    """Return the file of a folder, wherever its link leads within the folder.

    A snapshot of huggingface_hub's cache holds links to the blobs beside it, which belong to it.

    Raises:
        VectorError: It is no plain file, or a link to somewhere else.
    """
    path = folder / name
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    homes = [root]
    if root.parent.name == "snapshots":
        # Files that several repositories share lie in a folder of the cache itself.
        homes += [root.parent.parent / "blobs", root.parent.parent.parent / "blobs"]
    if checked_file_name(name) is None or not any(target.is_relative_to(home) for home in homes):
        raise VectorError(f"{path} leads out of its folder (to {target}); do not use it.")
    if not target.is_file():
        raise VectorError(f"{path} is no file; extract or pull it again.")
    return target
