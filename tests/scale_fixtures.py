"""A small pool that one process has searched, for modules that say ``pytest_plugins = ["scale_fixtures"]``."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import write_micro_recipe
from test_pipeline import call


@pytest.fixture(scope="session")
def searched(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose study was made by one process."""
    folder = tmp_path_factory.mktemp("scale")
    recipe = write_micro_recipe(folder / "study", base_dir)
    for verb in (("train",), ("vectors", "extract"), ("search",)):
        done = call(
            *verb, recipe, "--run-dir", folder / "alone", *([] if verb[0] == "vectors" else ["--device", "cpu"])
        )
        assert done.exit_code == 0, done.output
    return folder / "alone"
