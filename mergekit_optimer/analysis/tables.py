"""An analysis as files: one JSON, and beside it one CSV table of the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergekit_optimer.files import write_csv, write_json


def write_analysis(path: Path, data: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[Path]:
    """Write the numbers of an analysis, and the table as .csv under the same name.

    Args:
        path: Of the JSON.
        rows: The table, all with the same keys; None is an empty cell, and a float has all its digits.
    """
    write_json(path, data)
    table = path.with_suffix(".csv")
    write_csv(table, list(rows[0]) if rows else [], [list(row.values()) for row in rows])
    return [path, table]
