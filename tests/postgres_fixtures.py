"""Fixtures of the tests' PostgreSQL, for modules that say ``pytest_plugins = ["postgres_fixtures"]``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from postgres import Server, missing, running
from shared_bowl import database

from mergekit_optimer.search import Database

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def one_server() -> Iterator[Server]:
    if reason := missing():
        pytest.skip(reason)
    with running() as server:
        yield server


@pytest.fixture
def server(one_server: Server) -> Server:
    """A running server, whatever the test before did to it."""
    if not one_server.is_running:
        one_server.start()
    return one_server


@pytest.fixture
def url(server: Server) -> str:
    """An empty database of the test's own."""
    return server.database(f"study{next(_NUMBERS)}")


@pytest.fixture
def place(url: str) -> Iterator[Callable[..., Database]]:
    """A maker of drivers' places in that database."""
    with ExitStack() as stack:

        def opened(**options: Any) -> Database:
            made = database(url, **options)
            stack.callback(made.close)
            return made

        yield opened
