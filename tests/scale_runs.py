"""Runs of the small pool that scale_fixtures.py searches: copies without a study, and what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mergekit_optimer.files import read_json

STUDY = ("study.journal", "trials", "best")


def unsearched(searched: Path, to: Path) -> Path:
    """A copy of the run without its study."""
    shutil.copytree(searched, to, ignore=shutil.ignore_patterns(*STUDY))
    return to


def recipe_of(searched: Path) -> Path:
    return searched.parent / "study/recipe.yaml"


def scores(run: Path) -> dict[str, Any]:
    """Weights -> what was measured, without the seconds."""
    found = {}
    for path in sorted((run / "trials").glob("*/scores.json")):
        record = read_json(path)
        found[json.dumps(record["weights"], sort_keys=True)] = record["tasks"]
    return found
