"""Commands as processes of their own, logged in as `hf auth login` leaves it: what a terminal and others can see."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback_repos import ANN, BEN
from publish_story import Story

pytest_plugins = ["publish_fixtures"]

COMMAND = [sys.executable, "-c", "from mergekit_optimer.cli import main; main()"]


@dataclass
class Seen:
    """What came of a command.

    Attributes:
        status: Its exit status.
        out: What it printed.
        terminal: What it drew on the terminal that its stderr is.
        processes: The process list while a request of it was in flight.
        home: Of the user, with the login in hf/token.
    """

    status: int
    out: str
    terminal: str
    processes: bytes
    home: Path


def process_list() -> bytes:
    """The command lines of all processes, as anybody on the machine can read them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes())
    return b"\n".join(found)


def watched(story: Story, home: Path, token: str, words: list[str], in_flight: Callable[[], bytes]) -> Seen:
    """Run a command whose stderr is a terminal of 100 columns.

    Args:
        in_flight: Waits for a request and returns the process list of then.
    """
    (home / "hf").mkdir(parents=True)
    (home / "hf/token").write_text(token)
    places = {"HF_ENDPOINT": story.hub.url, "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "xdg"),
              "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=theirs, env=os.environ | places, cwd=story.folder, text=True
    )
    os.close(theirs)
    processes, drawn = in_flight(), b""
    # The end of a terminal is an error on Linux.
    with suppress(OSError):
        while part := os.read(ours, 4096):
            drawn += part
    os.close(ours)
    assert process.stdout is not None
    out = process.stdout.read()
    return Seen(process.wait(), out, drawn.decode(), processes, home)


@pytest.fixture(scope="module")
def pulled(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """ben pulls ann's pool; the first large file stops half way until the process list has been read."""

    def in_flight() -> bytes:
        assert story.hub.storage.stalled.wait(60)
        found = process_list()
        story.hub.storage.released.set()
        return found

    # A bar is drawn again after a tenth of a second, not before.
    story.hub.state.before("GET", "^/lfs/", lambda: time.sleep(0.3))
    story.hub.state.fail("GET", "^/lfs/", "stall")
    try:
        words = ["vectors", "pull", "org/dv-pool"]
        return watched(story, tmp_path_factory.mktemp("ben"), BEN, words, in_flight)
    finally:
        story.hub.state.faults.clear()


@pytest.fixture(scope="module")
def pushed(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """ann publishes her model under another name."""
    lists: list[bytes] = []
    story.hub.state.before("POST", "/org/again/commit/", lambda: lists.append(process_list()))
    words = ["publish", "run", "--repo", "org/again"]
    seen = watched(story, tmp_path_factory.mktemp("ann"), ANN, words, lambda: b"")
    seen.processes = b"".join(lists)
    return seen


def test_commands_of_their_own_do_what_they_do(story: Story, pulled: Seen, pushed: Seen) -> None:
    assert pulled.status == 0, pulled.terminal
    assert "org/dv-ja" in pulled.out
    assert pushed.status == 0, pushed.terminal
    assert pushed.out == f"org/again@{story.head('org/again')}\n"


@pytest.mark.parametrize("deed", ["pulled", "pushed"])
def test_a_login_is_in_no_process_list_no_output_and_no_file_but_its_own(
    deed: str, request: pytest.FixtureRequest
) -> None:
    seen: Seen = request.getfixturevalue(deed)
    assert b"mergekit_optimer.cli" in seen.processes, "the command was not in flight"
    for token in (ANN, BEN):
        assert token.encode() not in seen.processes
        assert token not in seen.out + seen.terminal
    with_token = [
        path.relative_to(seen.home).as_posix()
        for path in seen.home.rglob("*")
        if path.is_file() and re.search(b"hf_ann|hf_ben", path.read_bytes())
    ]
    assert with_token == ["hf/token"]


def test_a_pull_draws_a_bar_on_a_terminal_and_leaves_none_behind(pulled: Seen) -> None:
    bars = re.findall(r"\r(org/dv-\w+: +(\d+)%\|.*?\| [\d.]+\w?/[\d.]+\w? \[.*?B/s\])", pulled.terminal)
    assert any(0 < int(percent) < 100 for _, percent in bars), pulled.terminal
    assert max(len(bar) for bar, _ in bars) <= 100
    # The last thing in a bar's place is nothing.
    after = pulled.terminal[pulled.terminal.rindex("B/s]") + len("B/s]") :]
    assert re.match(r"\s*\r +\r", after), after
