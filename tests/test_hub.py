"""Pulling a base and a dataset from a Hub, over real HTTP on the loopback: at a commit, from the cache, and refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SHA = "a" * 40
REPOS = {"models/org/base": "base", "datasets/org/text": "text"}


class MiniHub(ThreadingHTTPServer):
    """Just what a client asks when it pulls a snapshot; every request is kept."""

    def __init__(self, root: Path) -> None:
        self.root, self.requests = root, []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: MiniHub

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0].removeprefix("/")
        for repo, folder in REPOS.items():
            plain = repo.removeprefix("models/")
            files = sorted(file for file in (self.server.root / folder).rglob("*") if file.is_file())
            if path == f"api/{repo}/revision/main" or path == f"api/{repo}/revision/{SHA}":
                siblings = [{"rfilename": file.name} for file in files]
                return self.reply({"id": plain, "sha": SHA, "siblings": siblings, "private": False, "gated": False})
            if path == f"api/{repo}/tree/{SHA}":
                return self.reply([
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files
                ])  # fmt: skip
            if path.startswith(f"{plain}/resolve/{SHA}/"):
                return self.reply_file(self.server.root / folder / path.rpartition("/")[2])
        return self.reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def reply(self, data: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(data).encode(), status, {"Content-Type": "application/json"} | (headers or {}))

    def reply_file(self, path: Path) -> None:
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.send(content, 200, {"ETag": etag, "X-Repo-Commit": SHA})

    def send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def mini_hub(tmp_path: Path, base_dir: Path) -> Iterator[MiniHub]:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/base").symlink_to(base_dir)
    (tmp_path / "hub/text").mkdir()
    (tmp_path / "hub/text/train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    hub = MiniHub(tmp_path / "hub")
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


# The endpoint is read when huggingface_hub is imported, so the client is a process of its own.
CLIENT = """
import sys
from pathlib import Path
from mergekit_optimer import corpora
from mergekit_optimer.errors import OptimerError
from mergekit_optimer.hub import locate
from mergekit_optimer.recipe import ModelSource, Recipe, TextSource
recipe = Recipe.model_construct(folder=Path("."))
try:
    for repo, revision in (word.split("@") for word in sys.argv[1:]):
        if repo.endswith("text"):
            print(corpora.read_corpus(TextSource(repo=repo, revision=revision), recipe).dataset["text"][:])
        else:
            print(locate(ModelSource(repo=repo, revision=revision or None), recipe, "model").label)
except OptimerError as error:
    print("error:", error)
"""


def pull(hub: MiniHub, home: Path, *repos: str, offline: bool = False) -> list[str]:
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    process = subprocess.run(
        [sys.executable, "-c", CLIENT, *repos], env=environment, capture_output=True, text=True, check=True
    )
    return process.stdout.splitlines()


def test_a_branch_is_resolved_to_its_commit_and_a_dataset_is_read(mini_hub: MiniHub, tmp_path: Path) -> None:
    assert pull(mini_hub, tmp_path / "home", "org/base@main", f"org/text@{SHA}") == [
        f"org/base@{SHA}",
        "['one', 'two']",
    ]


def test_a_commit_that_is_cached_asks_for_nothing(mini_hub: MiniHub, tmp_path: Path) -> None:
    pull(mini_hub, tmp_path / "home", f"org/base@{SHA}")
    mini_hub.requests.clear()
    assert pull(mini_hub, tmp_path / "home", f"org/base@{SHA}") == [f"org/base@{SHA}"]
    assert [request for request in mini_hub.requests if "/base" in request] == []
    assert pull(mini_hub, tmp_path / "home", f"org/base@{SHA}", offline=True) == [f"org/base@{SHA}"]


def test_what_cannot_be_had_is_a_sentence(mini_hub: MiniHub, tmp_path: Path) -> None:
    (line,) = pull(mini_hub, tmp_path / "home", "org/none@main")
    assert line.startswith("error: org/none@main does not exist or is private")
    (line,) = pull(mini_hub, tmp_path / "empty", "org/base@main", offline=True)
    assert line.startswith("error: org/base@main is not in the cache and the Hub cannot be reached")
