"""Trials until 95 % of the best gain known on the demo's pool: what samplers.py found, as rows of the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from .figures import Figure
from .setting import Setting

SCRIPT = Path(__file__).with_name("samplers.py")
# Method of samplers.py -> what is counted, its words, the bound.
ASKED = {
    "tpe + quadratic": ("in_trials", "trials", 40),
    "gradient, tpe + quadratic": ("in_costs", "cost in forward-only trials", 20),
}


def measure(setting: Setting) -> list[Figure]:
    """Read samplers.json where it has the methods asked for; else make it, which takes some 10 minutes."""
    found = json.loads(setting.samplers_path.read_text()) if setting.samplers_path.exists() else {"methods": {}}
    if not set(ASKED) <= set(found["methods"]):
        command = [sys.executable, str(SCRIPT), "--pool", str(setting.pool_dir), "--out", str(setting.samplers_path)]
        command += ["--seeds", "1" if setting.quick else "10", *(f"--method={method}" for method in ASKED)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        found = json.loads(setting.samplers_path.read_text())
    figures = []
    for method, data in found["methods"].items():
        key, words, bound = ASKED.get(method, ("in_trials", "trials", None))
        figures.append(
            Figure(
                f"{method}: {words} to {found['mark']:.0%} of the best gain",
                data[key][1],
                at_most=bound,
                detail=_detail(data, found),
            )
        )
    return figures


def _detail(data: dict[str, Any], found: dict[str, Any]) -> str:
    def said(quartiles: list[float | None]) -> str:
        low, middle, high = ("never" if one is None else f"{one:g}" for one in quartiles)
        return f"{middle} [{low}, {high}]"

    n_reached = sum(count is not None for count in data["trials"])
    return (
        f"demo pool, median [quartiles] of {len(data['trials'])} seeds: trials {said(data['in_trials'])}, cost "
        f"{said(data['in_costs'])}; {n_reached} reached it within {found['n_trials']} trials"
    )
