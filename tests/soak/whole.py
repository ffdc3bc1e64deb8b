"""What must be true of a run folder after any kill, and of the machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mergekit_optimer.files import TEMPORARY


def trials(run: Path) -> list[dict[str, Any]]:
    """The trials as the journal's whole lines have them: state, value, attributes."""
    found: list[dict[str, Any]] = []
    journal = run / "study.journal"
    for line in journal.read_bytes().splitlines(keepends=True) if journal.exists() else ():
        try:
            entry = json.loads(line) if line.endswith(b"\n") else {}
        except ValueError:
            continue
        code = entry.get("op_code")
        if code == 4:
            found.append({"state": entry.get("state", 0), "values": entry.get("values"), "attrs": {}})
        elif code == 6:
            found[entry["trial_id"]] |= {"state": entry["state"], "values": entry["values"]}
        elif code == 8:
            found[entry["trial_id"]]["attrs"] |= entry["user_attr"]
    return found


def reported(run: Path) -> dict[int, tuple[Any, str]]:
    """Number -> what the study was told of it and the hash of its first scores, for each complete trial."""
    done = {}
    for number, trial in enumerate(trials(run)):
        if trial["state"] == 1:
            scores = json.loads((run / f"trials/{number:04d}/scores.json").read_text())
            kept = {key: scores[key] for key in ("weights", "source", "scores") if key in scores}
            kept["first"] = sorted(scores["values"].items())[0]
            digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
            done[number] = (trial["values"], digest)
    return done


def damage(run: Path, *, is_finished: bool) -> list[str]:
    """What is wrong in a run folder: half-written files, trials without an end."""
    wrong = []
    for path in sorted(run.rglob("*.json")):
        # What a trainer is saving counts once it is marked whole; a finished training leaves none of it.
        if TEMPORARY in str(path) or (not is_finished and any(part.endswith(".training") for part in path.parts)):
            continue
        try:
            json.loads(path.read_text())
        except ValueError:
            wrong.append(f"{path} is half-written")
    if is_finished:
        wrong += [f"{path} is left over" for path in run.rglob(f"{TEMPORARY}*")]
        wrong += [f"trial {n} has no end" for n, one in enumerate(trials(run)) if one["state"] not in (1, 2, 3)]
    return wrong


def processes_of_session(session: int) -> list[int]:
    """Living processes of a session, other than zombies."""
    alive = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            alive.append(int(folder.name))
    return alive


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}
