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
    """Answer calls: {do: "pull" | "push" | "ask" | "rows" | "run", ...} -> what came of it, waits, log.

    "pull" takes repo, revision, kind, home, token, timeout_s, n_tries, free_bytes, n_parallel, file_limit,
    allow_pickle, files;
    "push" takes uploads (repo, files as text or {"path": ...}, title, private, marker), token, timeout_s, n_tries,
    n_parallel, forbidden_texts, plan_only;
    "ask" takes name and arguments of one of our functions, n_tries, home: hub.resolve or hub.list_collection;
    "rows" takes repo and revision of a dataset, and uses the process's own cache;
    "run" takes code (an expression over api, the HfApi), token;
    "cli" takes words, cwd, input, n_tries (of a push), and answers {status, out, err} as the command line would.
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
            answer = {"pull": _pull, "push": _push, "ask": _ask, "rows": _rows, "run": _run, "cli": _cli}[call["do"]](
                call, waits
            )
        except Exception as error:
            answer = {"error": str(error), "type": type(error).__name__, "text": traceback.format_exc()}
        print(json.dumps(answer | {"waits": waits, "log": log}, default=str), flush=True)


def _pull(call: dict[str, Any], waits: list[float]) -> dict[str, Any]:
    import resource

    from mergekit_optimer.hub import Patience, PullOptions, locate
    from mergekit_optimer.recipe import ModelSource, Recipe, TextSource

    source = ModelSource if call.get("kind", "model") == "model" else TextSource
    extra = {"allow_pickle": True} if call.get("allow_pickle") else {}
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
            source(repo=call["repo"], revision=call.get("revision"), **extra), Recipe.model_construct(folder=Path()),
            call.get("kind", "model"), options, tuple(call.get("files", ())) or None,
        )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {"label": found.label, "path": str(found.path)}


def _push(call: dict[str, Any], waits: list[float]) -> dict[str, Any]:
    from dataclasses import asdict

    from mergekit_optimer.hub import Patience, PushOptions, Upload, plan_push, push

    patience = Patience(
        n_tries=call.get("n_tries", 4), timeout_s=call.get("timeout_s", 20), sleep=lambda wait_s: waits.append(wait_s)
    )
    options = PushOptions(patience, tuple(call.get("forbidden_texts", ())), call.get("n_parallel", 1))
    uploads = [
        Upload(**upload | {"files": {
            name: Path(content["path"]) if isinstance(content, dict) else content.encode()
            for name, content in upload["files"].items()
        }})
        for upload in call["uploads"]
    ]  # fmt: skip
    plans = plan_push(uploads, options)
    planned = [
        {"exists": plan.exists, "head": plan.head, "sent": [file.path for file in plan.sent],
         "kept": [file.path for file in plan.kept], "removed": plan.removed, "size_bytes": plan.size_bytes}
        for plan in plans
    ]  # fmt: skip
    pushed = [] if call.get("plan_only") else push(plans, options)
    return {"plans": planned, "value": [asdict(done) for done in pushed]}


def _ask(call: dict[str, Any], waits: list[float]) -> dict[str, Any]:
    from mergekit_optimer import hub

    patience = hub.Patience(n_tries=call.get("n_tries", 4), timeout_s=20, sleep=lambda wait_s: waits.append(wait_s))
    options = hub.PullOptions(patience, Path(call["home"]) / "hub", Path(call["home"]) / "records")
    return {"value": getattr(hub, call["name"])(*call["arguments"], options)}


def _rows(call: dict[str, Any], _: list[float]) -> dict[str, Any]:
    from mergekit_optimer.corpora import read_rows
    from mergekit_optimer.recipe import Recipe, TextSource

    source = TextSource(repo=call["repo"], revision=call["revision"])
    return {"value": read_rows(source, Recipe.model_construct(folder=Path()))}


def _run(call: dict[str, Any], _: list[float]) -> dict[str, Any]:
    import huggingface_hub

    return {"value": eval(call["code"], {"api": huggingface_hub.HfApi(), "hub": huggingface_hub, "Path": Path})}


def _cli(call: dict[str, Any], waits: list[float]) -> dict[str, Any]:
    from dataclasses import replace
    from unittest import mock

    from click.testing import CliRunner

    from mergekit_optimer import hub
    from mergekit_optimer.cli import cli
    from mergekit_optimer.errors import OptimerError
    from mergekit_optimer.pipeline import pushing

    os.chdir(call["cwd"])
    usual, patience = pushing._options, hub.Patience(n_tries=call.get("n_tries", 4), sleep=waits.append)
    # A push that meets a fault waits for nobody.
    with mock.patch.object(pushing, "_options", lambda *folders: replace(usual(*folders), patience=patience)):
        result = CliRunner().invoke(cli, call["words"], input=call.get("input"))
    if result.exception is not None and not isinstance(result.exception, SystemExit | OptimerError):
        raise result.exception
    sentence = f"error: {result.exception}\n" if isinstance(result.exception, OptimerError) else ""
    return {"status": result.exit_code, "out": result.stdout, "err": result.stderr + sentence}


if __name__ == "__main__":
    serve()
