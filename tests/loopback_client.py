"""A client process for tests of the Hub: HF_ENDPOINT is read when huggingface_hub is imported, so not in this one.

One process serves a module of tests: a JSON line in, a JSON line out. ``python loopback_client.py`` is that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Client:
    """A running client process of one Hub."""

    def __init__(self, url: str, home: Path, **environment: str) -> None:
        variables = os.environ | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home / "hf"),
            "XDG_CACHE_HOME": str(home / "xdg"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=variables | environment,
        )  # fmt: skip

    def send(self, **call: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(call, default=str) + "\n")
        self.process.stdin.flush()

    def call(self, **call: Any) -> dict[str, Any]:
        """Do one thing and return what came of it; see ``serve`` for keys."""
        self.send(**call)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """What came of the earliest call that has not been asked about."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        return dict(json.loads(line)) if line else {"died": self.process.stderr.read()}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def running_client(url: str, home: Path, **environment: str) -> Iterator[Client]:
    """A client while the block lasts; environment variables are given by name."""
    client = Client(url, home, **environment)
    try:
        yield client
    finally:
        client.close()


def serve() -> None:
    """Answer calls: {do: "pull" | "rows" | "run", ...} -> {label, path | value, waits, log | error, type, text}.

    "pull" takes repo, revision, kind, home, token, timeout_s, n_tries, free_bytes, n_parallel, file_limit;
    "rows" takes repo and revision of a dataset, and uses the process's own cache;
    "run" takes code (an expression over api, the HfApi), token.
    """
    import logging

    log: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    logging.basicConfig(level=logging.DEBUG, handlers=[Keep()])
    for line in sys.stdin:
        call, waits = json.loads(line), []
        log.clear()
        os.environ.pop("HF_TOKEN", None)
        if call.get("token"):
            os.environ["HF_TOKEN"] = call["token"]
        answer: dict[str, Any] = {}
        try:
            answer = {"pull": _pull, "rows": _rows, "run": _run}[call["do"]](call, waits)
        except Exception as error:
            answer = {"error": str(error), "type": type(error).__name__, "text": traceback.format_exc()}
        print(json.dumps(answer | {"waits": waits, "log": log}, default=str), flush=True)


def _pull(call: dict[str, Any], waits: list[float]) -> dict[str, Any]:
    import resource

    from mergekit_optimer.hub import Patience, PullOptions, locate
    from mergekit_optimer.recipe import ModelSource, Recipe, TextSource

    source = ModelSource if call.get("kind", "model") == "model" else TextSource
    patience = Patience(
        n_tries=call.get("n_tries", 4), timeout_s=call.get("timeout_s", 20), sleep=lambda wait_s: waits.append(wait_s)
    )
    home, free = Path(call["home"]), call.get("free_bytes")
    options = PullOptions(
        patience, home / "hub", home / "records", call.get("n_parallel", 1),
        **({} if free is None else {"free_bytes": lambda _: free}),
    )  # fmt: skip
    if call.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (call["file_limit"], resource.RLIM_INFINITY))
    try:
        found = locate(
            source(repo=call["repo"], revision=call.get("revision")), Recipe.model_construct(folder=Path()),
            call.get("kind", "model"), options,
        )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {"label": found.label, "path": str(found.path)}


def _rows(call: dict[str, Any], _: list[float]) -> dict[str, Any]:
    from mergekit_optimer.corpora import read_rows
    from mergekit_optimer.recipe import Recipe, TextSource

    source = TextSource(repo=call["repo"], revision=call["revision"])
    return {"value": read_rows(source, Recipe.model_construct(folder=Path()))}


def _run(call: dict[str, Any], _: list[float]) -> dict[str, Any]:
    import huggingface_hub

    return {"value": eval(call["code"], {"api": huggingface_hub.HfApi(), "hub": huggingface_hub, "Path": Path})}


if __name__ == "__main__":
    serve()
