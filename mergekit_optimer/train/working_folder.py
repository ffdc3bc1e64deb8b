"""The working folder of a training that may be interrupted: whose it is, and its last whole trainer checkpoint.

It lies beside the target, hidden, and goes when the target is there.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_optimer import files
from mergekit_optimer.errors import RunFolderError

log = logging.getLogger(__name__)

_MARK = "whole.json"


@dataclass(frozen=True)
class WorkingFolder:
    """``.<target>.training`` beside the target."""

    root: Path

    @property
    def text_dir(self) -> Path:
        """The documents as Arrow files; what TRL makes of them is cached beside them, on disk."""
        return self.root / "text"

    @property
    def trainer_dir(self) -> Path:
        return self.root / "trainer"

    @property
    def trajectory_dir(self) -> Path:
        return self.root / "trajectory"

    @property
    def final_dir(self) -> Path:
        return self.root / "final"

    def checkpoint_dir(self, step: int) -> Path:
        return self.trainer_dir / f"checkpoint-{step}"

    def enter(self, name: str, inputs: str) -> None:
        """Make the folder, or go on in it if it was made for the same inputs (a hash)."""
        identity = self.root / "inputs.json"
        if self.root.exists():
            try:
                if files.read_json(identity) == inputs:
                    return
            except RunFolderError:
                log.info("train %s: the interrupted training left no record of its inputs", name)
            log.info("train %s: options, data or base differ from the interrupted training: starting anew", name)
            shutil.rmtree(self.root)
        files.write_json(identity, inputs)

    def mark_whole(self, step: int, elapsed_s: float) -> None:
        """Say that a trainer checkpoint is written to its end, with the sizes of its files."""
        folder = self.checkpoint_dir(step)
        sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.name != _MARK and file.is_file()}
        files.write_json(folder / _MARK, {"sizes": sizes, "elapsed_s": elapsed_s})

    def last_whole(self) -> tuple[Path, float] | None:
        """Return the newest checkpoint that was written to its end, and the seconds trained up to it.

        A process killed while it writes leaves half a checkpoint; those are passed over.
        """
        steps = sorted(
            (int(number) for folder in self.trainer_dir.glob("checkpoint-*") if (number := folder.name[11:]).isdigit()),
            reverse=True,
        )
        for step in steps:
            folder = self.checkpoint_dir(step)
            mark = _read_mark(folder)
            if mark is not None:
                return folder, float(mark["elapsed_s"])
            log.warning("%s is not whole; going back to the checkpoint before it", folder.name)
            # The trainer sorts checkpoints by age and would count this one among those to keep.
            shutil.rmtree(folder)
        return None

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


def _read_mark(folder: Path) -> dict[str, Any] | None:
    try:
        mark: dict[str, Any] = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in mark["sizes"].items())
    except (OSError, ValueError):
        return None
    return mark if whole else None
