"""`make bench`: measure every row in a process of its own, print the table, write bench.json."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .figures import Figure, machine, read, render, update, write
from .setting import Setting

# Row -> module and function that measure it, in the order of the table.
ROWS = {
    "bandwidth": ("merge", "measure_bandwidth"),
    "mergekit": ("merge", "measure_mergekit"),
    "trial": ("trial", "measure"),
    "search": ("naive_loop", "measure"),
    "memory": ("memory", "measure"),
    "trials": ("trials", "measure"),
    "race": ("race", "measure"),
    "workers": ("scale", "measure_workers"),
    "driver": ("scale", "measure_driver"),
    # Not among those that are measured when none is named: its figures are another machine's.
    "cuda": ("cuda", "measure"),
}
DEFAULT = [row for row in ROWS if row != "cuda"]


def main() -> int:
    """Run what the command line asks for; 0 whether or not the bounds are kept, 1 where a row could not be measured."""
    options = _options()
    if options.row:
        return _measure_here(options)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        work_dir = Path(os.environ.get("BENCH_DIR") or temporary).resolve()
        work_dir.mkdir(parents=True, exist_ok=True)
        # Rows not measured this time keep what the file says of them.
        figures = read(options.out) if options.only and options.out.exists() else []
        failed = []
        for row in options.only or DEFAULT:
            started = time.monotonic()
            measured = _measure_apart(row, options, work_dir)
            if measured is None:
                failed.append(row)
                measured = [Figure(row, None, detail="could not be measured; its error is shown above")]
            figures = update(figures, measured)
            write(figures, options.out)
            print(f"{row}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(f"{machine()}\n\n{render(figures)}")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Ratios measured in one run. Models are made in BENCH_DIR (12 GB), else in a temporary folder.",
    )
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this row (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="tiny models, few trials: tests the benchmark itself")
    parser.add_argument("--naive-trials", type=int, default=20, help="trials of the naive loop, up to 1 min each")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of the race")
    parser.add_argument("--pool", type=Path, default=Path("runs/demo"), help="a finished run of the demo recipe")
    parser.add_argument("--samplers", type=Path, default=Path("samplers.json"), help="what samplers.py wrote, or is to")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="file to write")
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--work-dir", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure_apart(row: str, options: argparse.Namespace, work_dir: Path) -> list[Figure] | None:
    """Measure a row in a process of its own, so that none inherits another's memory or threads."""
    part = work_dir / f"{row}.json"
    part.unlink(missing_ok=True)
    command = [sys.executable, "-m", __package__, "--row", row, "--work-dir", str(work_dir), "--out", str(part)]
    for name in ("naive_trials", "seeds", "pool", "samplers"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    environment = {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"} | os.environ
    subprocess.run([*command, *(["--quick"] if options.quick else [])], env=environment, check=False)
    return read(part) if part.exists() else None


def _measure_here(options: argparse.Namespace) -> int:
    logging.getLogger("mergekit_optimer").setLevel(logging.ERROR)
    paths = options.pool.resolve(), options.samplers.resolve()
    setting = Setting(options.work_dir, options.quick, options.naive_trials, options.seeds, *paths)
    module, function = ROWS[options.row]
    measure = getattr(importlib.import_module(f".{module}", __package__), function)
    write(measure(setting), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
