"""A PostgreSQL of the tests' own on loopback, made in a moment, gone afterwards; none where none is installed."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PASSWORD = "hunter2-not-to-be-seen"
# Where the user postgres may go, and a socket's path is short enough.
_PLACE = Path("/tmp")


def missing() -> str | None:
    """Why there can be no server here; None where there can."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed: pip install 'mergekit-optimer[postgres]'"
    if server_programs() is None:
        return "no PostgreSQL server is installed: apt-get install postgresql"
    if os.getuid() == 0 and not _has_user("postgres"):
        return "root may not run PostgreSQL, and there is no user postgres"
    return None


def server_programs() -> Path | None:
    """Folder of initdb and pg_ctl; None where they are not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[4]))
    in_path = shutil.which("pg_ctl")
    program = found[-1] if found else Path(in_path) if in_path else None
    return program.resolve().parent if program else None


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


class Server:
    """A server that can be stopped and started."""

    def __init__(self, programs: Path, folder: Path, port: int) -> None:
        self._programs, self._folder, self.port = programs, folder, port
        # One after the other, where a thread starts what a test stops.
        self._changing = threading.Lock()

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        return f"postgresql://study:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(self._folder / "log")
        with self._changing:
            self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-t", "60", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        with self._changing:
            self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", "immediate", "stop")

    @property
    def is_running(self) -> bool:
        return (self._folder / "data/postmaster.pid").exists()

    def initialise(self) -> None:
        secret = self._folder / "secret"
        secret.write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (self._folder, secret):
                shutil.chown(path, "postgres")
        self._run(
            "initdb", "-D", str(self._folder / "data"), "-U", "study", "-A", "scram-sha-256", "--pwfile", str(secret),
            "--locale=C", "-E", "UTF8", "--no-sync",
        )  # fmt: skip

    def database(self, name: str) -> str:
        """Make a database and return its URL."""
        self.ask(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def ask(self, query: str, url: str = "/postgres") -> list[tuple[Any, ...]]:
        """Run a statement in a database and return its rows."""
        import psycopg

        with psycopg.connect(self.url(url.rpartition("/")[2]), autocommit=True) as connection:
            # A literal of the tests' own.
            done = connection.execute(query.encode())
            return done.fetchall() if done.description else []

    def _run(self, program: str, *arguments: str) -> None:
        words = [str(self._programs / program), *arguments]
        if os.getuid() == 0:
            words = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *words]
        # Not a pipe: the server would hold it.
        with (self._folder / "out").open("ab") as out:
            done = subprocess.run(words, stdout=out, stderr=out, check=False, cwd="/")
        assert done.returncode == 0, (self._folder / "out").read_text()


@contextmanager
def running() -> Iterator[Server]:
    """A server for as long as the block."""
    programs = server_programs()
    assert programs is not None
    _sweep(programs)
    folder = Path(tempfile.mkdtemp(prefix=f"study-postgres-{os.getpid()}-", dir=_PLACE))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(programs, folder, port)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        if server.is_running:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(programs: Path) -> None:
    """End what killed tests left running."""
    for folder in _PLACE.glob("study-postgres-*-*"):
        is_ours = os.access(folder, os.W_OK | os.X_OK)
        if is_ours and not Path("/proc", folder.name.split("-")[2]).exists():
            with suppress(AssertionError):
                # Of a machine that was started anew only the files are left.
                Server(programs, folder, 0).stop()
            shutil.rmtree(folder, ignore_errors=True)
