"""The most memory a resident search holds, mapped files included, against the models it must hold."""

from __future__ import annotations

import os
import subprocess
import sys

from .figures import Figure
from .models import make_pool, make_recipe
from .setting import Setting

GIB = 1 << 30


def measure(setting: Setting) -> list[Figure]:
    """Run a short search in a process of its own; its samples are few, its models whole."""
    pool = make_pool(setting.work_dir, setting.large, "bfloat16", 4)
    folder = setting.fresh("memory")
    recipe = make_recipe(pool, folder, 8, 8)
    command = [sys.executable, "-m", f"{__package__}.peak", "search", str(recipe), "--run-dir", str(folder / "run")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PEAK_FILE": str(folder / "peak")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the search ended with {done.returncode}:\n{done.stderr[-3000:]}")
    searched, merged = (int(line) for line in (folder / "peak").read_text().split())
    model_bytes = 2 * pool.n_parameters
    allowed = (pool.n_vectors + 2) * model_bytes + GIB
    bound = f"{pool.n_vectors + 2} models of {model_bytes / GIB:.2f} GiB + 1 GiB = {allowed / GIB:.2f} GiB"
    what = f"{setting.large} bfloat16, K=4: share of (K + 2) models + 1 GiB"
    return [
        Figure(
            f"memory of a search, {what}",
            searched / allowed,
            at_most=1.0,
            detail=f"VmHWM after the trials {searched / GIB:.2f} GiB, mapped files included; {bound}",
        ),
        Figure(
            f"memory of a search and the merge of its winner by mergekit, {what}",
            merged / allowed,
            at_most=1.0,
            detail=f"VmHWM at the end {merged / GIB:.2f} GiB; a page mapped twice counts twice",
        ),
    ]
