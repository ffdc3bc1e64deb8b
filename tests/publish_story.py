"""Who is in the story of a pool that is published, and what they can do; it is told in publish_fixtures.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopback_client import Client
from loopback_hub import LoopbackHub
from loopback_repos import ANN, BEN


@dataclass
class Story:
    """What is there after ann has run and pushed everything.

    Attributes:
        said: What each of her commands answered, and which repositories there were in between, by name.
    """

    hub: LoopbackHub
    ann: Client
    folder: Path
    base_revision: str
    said: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def call(self, *words: str, **options: Any) -> dict[str, Any]:
        return self.ann.call(do="cli", words=list(words), cwd=self.folder, token=ANN, **options)

    def files(self, repo: str) -> dict[str, bytes]:
        there = self.hub.state.repos["model", repo]
        return {path: file.content for path, file in there.commits[there.head].files.items()}

    def head(self, repo: str) -> str:
        return self.hub.state.repos["model", repo].head


@dataclass
class Reader:
    """ben, with the folder that he works in and what his commands answered."""

    client: Client
    folder: Path
    said: list[dict[str, Any]] = field(default_factory=list)

    def call(self, *words: str, **options: Any) -> dict[str, Any]:
        self.said.append(self.client.call(do="cli", words=list(words), cwd=self.folder, token=BEN, **options))
        return self.said[-1]

    def evaluate(self, code: str) -> Any:
        """The value of an expression, in ben's process."""
        answer = self.client.call(do="run", token=BEN, code=code)
        return answer.get("value", answer)
