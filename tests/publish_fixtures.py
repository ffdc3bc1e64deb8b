"""Fixtures of a published pool, for modules that say ``pytest_plugins = ["publish_fixtures"]``.

One Hub, told of once in a session: ann, who may write, trains, searches and publishes; ben has a read token and an
empty cache. Modules add repositories of names of their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import write_micro_recipe
from loopback_client import running_client
from loopback_hub import running_hub
from loopback_repos import ANN, BEN, User
from publish_story import Reader, Story


@pytest.fixture(scope="session")
def story(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("ann")
    path = write_micro_recipe(folder, base_dir)
    recipe = yaml.safe_load(path.read_text())
    with running_hub(with_cdn=True) as hub, running_client(hub.url, folder / "home") as ann:
        hub.state.users |= {ANN: User("ann", orgs=("org",)), BEN: User("ben", "read", orgs=("org",))}
        base = hub.state.add_repo("org/base", {file.name: file.read_bytes() for file in base_dir.iterdir()})
        texts = {"train.jsonl": (folder / "data/ja.train.jsonl").read_bytes()}
        hub.state.add_repo("org/texts-ja", texts, kind="dataset", private=True)
        shutil.rmtree(folder / "base")
        recipe["base_model"] = {"repo": "org/base"}
        recipe["train"]["datasets"]["ja"] = {"repo": "org/texts-ja"}
        recipe["publish"] |= {"checkpoints": "org/cpt-", "vectors": "org/dv-", "repo": "org/merged"}
        path.write_text(yaml.safe_dump(recipe))
        tale = Story(hub, ann, folder, base.head)
        common = ("recipe.yaml", "--run-dir", "run", "--device", "cpu")
        tale.said["run"] = tale.call("run", *common)
        tale.said["dry train"] = tale.call("train", *common, "--push", "--dry-run")
        tale.said["train"] = tale.call("train", *common, "--push")
        tale.said["dry vectors"] = tale.call("vectors", "push", *common, "--dry-run")
        tale.said["before"] = {"repos": sorted(name for _, name in hub.state.repos)}
        tale.said["vectors"] = tale.call("vectors", "push", *common)
        tale.said["dry publish"] = tale.call("publish", "run", "--dry-run")
        tale.said["after the dry publish"] = {"repos": sorted(name for _, name in hub.state.repos)}
        tale.said["publish"] = tale.call("publish", "run")
        yield tale


@pytest.fixture(scope="session")
def ben(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("ben")
    with running_client(story.hub.url, folder / "home") as client:
        yield Reader(client, folder)
