"""What of a run lies on the Hub: pushed.json, which names repository, commit and content of each part."""

from __future__ import annotations

from dataclasses import asdict, dataclass

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
    entry = read_json(run.pushed_path).get(part, {}).get(name) if run.pushed_path.exists() else None
    return Pushed(**entry) if entry is not None else None


def note_pushed(run: RunDir, part: str, name: str, pushed: Pushed) -> None:
    """Remember where a part is."""
    known = read_json(run.pushed_path) if run.pushed_path.exists() else {}
    known.setdefault(part, {})[name] = asdict(pushed)
    write_json(run.pushed_path, known)
