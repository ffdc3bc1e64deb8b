"""What of a run lies on the Hub: pushed.json, which names repository, commit and content of each part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.files import read_json, write_json
from mergekit_optimer.runs import RunDir


@dataclass(frozen=True)
class Pushed:
    """One part of a run on the Hub.

    Attributes:
        repo: As owner/name.
        revision: Commit sha.
        content: What it was made of, as a hash: where the part has changed since, it is not on the Hub.
    """

    repo: str
    revision: str
    content: str


def read_pushed(run: RunDir, part: str, name: str) -> Pushed | None:
    """Return where a part was pushed to, None where it never was.

    Args:
        part: "vectors" or "checkpoints".
    """
    entry = _known(run).get(part, {}).get(name)
    try:
        return Pushed(**entry) if entry is not None else None
    except TypeError as error:
        raise RunFolderError(f"{run.pushed_path} is damaged ({error}); delete it and push again.") from error


def note_pushed(run: RunDir, part: str, name: str, pushed: Pushed) -> None:
    """Remember where a part is."""
    known = _known(run)
    known.setdefault(part, {})[name] = asdict(pushed)
    write_json(run.pushed_path, known)


def _known(run: RunDir) -> dict[str, Any]:
    return dict(read_json(run.pushed_path)) if run.pushed_path.exists() else {}
