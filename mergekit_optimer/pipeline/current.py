"""The analyses of a run that are of what it holds now: of this winner, and of a search that has not gone on since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit_optimer.files import read_json
from mergekit_optimer.page import ANALYSES
from mergekit_optimer.runs import RunDir


def current_analyses(run: RunDir) -> tuple[dict[str, Any], str]:
    """What each analysis that is current holds, by its name, and a sentence about the others; empty where none are."""
    paths = {name: run.analysis_path(name) for name in ANALYSES}
    found = {name: read_json(path) for name, path in paths.items() if path.exists()}
    summary = read_json(run.winner_path) if run.winner_path.exists() else None
    winner = summary["winner"]["weights"] if summary is not None else {}
    of_another = [name for name, data in found.items() if not _is_of_winner(name, data, winner)]
    gone_on = [
        name
        for name, data in found.items()
        if summary is not None and name not in of_another and not _is_of_study(name, data, summary, run)
    ]
    said = [f"Of an earlier winner, and so not shown: {', '.join(of_another)}."] if of_another else []
    if gone_on:
        said.append(f"Of before the search went on, and so not shown: {', '.join(gone_on)}.")
    left_out = {*of_another, *gone_on}
    return {name: data for name, data in found.items() if name not in left_out}, " ".join(said)


def _is_of_winner(name: str, data: Mapping[str, Any], winner: Mapping[str, float]) -> bool:
    """Whether an analysis that has to do with the winner's weights is of these."""
    if name == "landscape":
        return bool(data.get("winner") == winner)
    if name == "attribution":
        return {vector: one.get("weight") for vector, one in data.get("vectors", {}).items()} == winner
    if name == "mixture":
        return bool(data.get("weights", winner) == winner)
    if name == "trajectory":
        # Measured before there was a winner it says nothing of one.
        weights = {vector: one.get("winner_weight") for vector, one in data.get("meaning", {}).items()}
        return all(weight is None or weight == winner.get(vector) for vector, weight in weights.items())
    return True


def _is_of_study(name: str, data: Mapping[str, Any], summary: Mapping[str, Any], run: RunDir) -> bool:
    """Whether an analysis that counts trials counts those that there are."""
    if name == "cost":
        n_run = summary.get("n_run")
        return n_run is None or data.get("mixtures_searched") == n_run
    if name == "objectives":
        return all(_is_row_of_study(row, run) for row in data.get("rows", ()))
    return True


def _is_row_of_study(row: Mapping[str, Any], run: RunDir) -> bool:
    """Whether a row says what its run says now, where that is this run or lies beside it; else nobody can tell."""
    name = str(row.get("name"))
    is_own = name in (run.root.name, f"{run.root.parent.name}/{run.root.name}")
    place = run if is_own else RunDir(run.root.parent / name)
    # A name is no way out of the folder.
    if not is_own and (place.root.parent != run.root.parent or name in ("", ".", "..")):
        return True
    if not place.winner_path.exists():
        return True
    summary = read_json(place.winner_path)
    now = [summary["winner"]["weights"], summary.get("n_run"), summary.get("n_adopted")]
    return [row.get("weights"), row.get("n_run"), row.get("n_adopted")] == now
