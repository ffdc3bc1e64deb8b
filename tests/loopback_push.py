"""What is pushed in tests, and by whom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from loopback_client import Client
from loopback_hub import LoopbackHub
from loopback_repos import ANN, WEIGHTS, Repo

CARD = "---\nlicense: mit\n---\n# A vector\n"
FILES = {"README.md": CARD, "distribution_vector.json": '{"name": "ja"}', "config.json": "{}\n"}


class Pusher:
    """Pushes org/dv-ja, a vector with weights of its own, with a token that must turn up nowhere."""

    def __init__(self, client: Client, hub: LoopbackHub, folder: Path) -> None:
        self.client, self.hub = client, hub
        self.weights = folder / "model.safetensors"
        self.weights.write_bytes(len(b"{}").to_bytes(8, "little") + b"{}" + WEIGHTS)

    @property
    def files(self) -> dict[str, Any]:
        return FILES | {"model.safetensors": {"path": str(self.weights)}}

    def upload(self, repo: str = "org/dv-ja", **changes: Any) -> dict[str, Any]:
        plain = {"repo": repo, "files": self.files, "title": "vector ja", "marker": "distribution_vector.json"}
        return plain | changes

    def __call__(self, *uploads: dict[str, Any], **call: Any) -> dict[str, Any]:
        sent = list(uploads) or [self.upload()]
        answer = self.client.call(**({"do": "push", "uploads": sent, "token": ANN} | call))
        assert not re.search("ann.?ann|benben|signature=", f"{answer.get('error')} {answer.get('text')}")
        assert not any(ANN in line or "Retrying in" in line for line in answer.get("log", []))
        return answer

    def asked(self, method: str, path: str = "") -> list[str]:
        """Requests so far, of both servers."""
        seen = [f"{seen.method} {seen.path.partition('?')[0]}" for seen in self.hub.state.requests]
        return [line for line in seen if re.fullmatch(method, line.partition(" ")[0]) and path in line]


def repo_of(hub: LoopbackHub, name: str = "org/dv-ja") -> Repo:
    return hub.state.repos["model", name]


def listed(repo: Repo) -> list[str]:
    return sorted(repo.commits[repo.head].files)
