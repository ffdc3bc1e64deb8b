"""Fixtures of the tests' Hub, for modules that say ``pytest_plugins = ["loopback_fixtures"]``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_client import Client, running_client
from loopback_hub import LoopbackHub, running_hub
from loopback_push import Pusher
from loopback_repos import ANN, BASE, BEN, Repo, User


@pytest.fixture(scope="session")
def one_hub() -> Iterator[LoopbackHub]:
    with running_hub(with_cdn=True) as hub:
        yield hub


@pytest.fixture(scope="session")
def client(one_hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process with huggingface_hub, whose Hub is ``hub``."""
    with running_client(one_hub.url, tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture(scope="session")
def offline_client(one_hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The same with HF_HUB_OFFLINE=1."""
    with running_client(one_hub.url, tmp_path_factory.mktemp("offline"), HF_HUB_OFFLINE="1") as client:
        yield client


@pytest.fixture
def hub(one_hub: LoopbackHub) -> LoopbackHub:
    """A Hub with two users and no repository; large files are on a server of another origin."""
    one_hub.forget()
    one_hub.state.users |= {ANN: User("ann", orgs=("org",)), BEN: User("ben", "read")}
    return one_hub


@pytest.fixture
def base(hub: LoopbackHub) -> Repo:
    """org/base, a model of three files."""
    return hub.state.add_repo("org/base", BASE)


@pytest.fixture
def push(hub: LoopbackHub, client: Client, tmp_path: Path) -> Pusher:
    return Pusher(client, hub, tmp_path)
