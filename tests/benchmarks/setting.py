"""How large a benchmark is run, and where; the same for every row."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """What the command line chose.

    Attributes:
        work_dir: Models, recipes and runs; a second benchmark in it need not make the models again.
        quick: Tiny models and few repetitions: to test the benchmark, not the package.
        n_naive_trials: Trials of the naive loop, which takes minutes; the ratio is per trial where they are fewer.
        n_seeds: Seeds of the race on the demo pool.
        pool_dir: A finished run of the demo recipe.
        samplers_path: What samplers.py wrote, or is to write.
    """

    work_dir: Path
    quick: bool
    n_naive_trials: int
    n_seeds: int
    pool_dir: Path
    samplers_path: Path

    @property
    def small(self) -> str:
        return "tiny" if self.quick else "50M"

    @property
    def large(self) -> str:
        return "tiny" if self.quick else "300M"

    @property
    def n_samples(self) -> int:
        """Dev samples of each task in a whole trial."""
        return 20 if self.quick else 100

    @property
    def n_search_samples(self) -> int:
        """Dev samples of each task in the search against the naive loop."""
        return 10 if self.quick else 25

    @property
    def n_search_trials(self) -> int:
        return 10 if self.quick else 20

    @property
    def repetitions(self) -> int:
        return 2 if self.quick else 7

    def fresh(self, name: str) -> Path:
        """An empty folder for one row."""
        folder = self.work_dir / "rows" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder
