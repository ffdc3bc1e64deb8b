"""pool.json: a vector pool as repositories of the Hub at commits, over one base. Pulls nothing.

It may come from anybody: its names become folder names, so only names that a recipe may hold are taken.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import VectorError
from mergekit_optimer.recipe import REPO, is_name
from mergekit_optimer.vectors.inside import file_inside

POOL = "pool.json"
POOL_FORMAT_VERSION = 1

_COMMIT = re.compile(r"[0-9a-f]{40}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BaseReference:
    """The base of a pool.

    Attributes:
        label: What it is called: repo@sha, or a folder's name.
        repo: Its Hub repository; None where it is local.
        revision: Its commit.
        fingerprint: ``model_fingerprint`` of it.
    """

    label: str
    repo: str | None
    revision: str | None
    fingerprint: str


@dataclass(frozen=True)
class PoolMember:
    """A vector on the Hub: its repository and its commit."""

    repo: str
    revision: str


@dataclass(frozen=True)
class PoolManifest:
    """A vector pool on the Hub.

    Attributes:
        name: Of the pool.
        base: What the vectors are over.
        vectors: Where each vector is, by name.
        license: Of the vectors; None where none is said.
    """

    name: str
    base: BaseReference
    vectors: dict[str, PoolMember] = field(default_factory=dict)
    license: str | None = None

    def to_json(self) -> dict[str, Any]:
        vectors = dict(sorted(self.vectors.items()))
        return {"format_version": POOL_FORMAT_VERSION} | asdict(self) | {
            "vectors": {name: asdict(member) for name, member in vectors.items()}
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Any, origin: str = POOL) -> PoolManifest:
        """Read a manifest that may hold anything.

        Args:
            origin: What it is called in sentences.

        Raises:
            VectorError: It is of a newer format, or is no manifest; the sentence names what is wrong.
        """
        version = data.get("format_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > POOL_FORMAT_VERSION:
            raise VectorError(
                f"{origin} has format {version}; this version reads {POOL_FORMAT_VERSION}. Update mergekit-optimer."
            )
        problem = _problem(data)
        if problem is not None:
            raise VectorError(f"{origin} is no vector pool: {problem}. Tell its owner, or push it anew.")
        return cls(
            data["name"],
            BaseReference(**data["base"]),
            {name: PoolMember(**member) for name, member in sorted(data["vectors"].items())},
            data["license"],
        )


def read_manifest(folder: Path, name: str) -> PoolManifest:
    """Read pool.json of a pulled repository.

    Args:
        folder: Its snapshot, or any folder.
        name: Repository and revision as the user wrote them, for sentences.

    Raises:
        VectorError: There is none, or it is none that can be used.
    """
    if not os.path.lexists(folder / POOL):
        raise VectorError(f"{name} holds no {POOL}, so it is no vector pool; name the pool's repository.")
    path = file_inside(folder, POOL)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise VectorError(f"{POOL} of {name} is no JSON; tell its owner, or push it anew.") from error
    return PoolManifest.from_json(data, f"{POOL} of {name}")


def _problem(data: Any) -> str | None:
    """What is wrong with a manifest, None where nothing is."""
    if not isinstance(data, dict) or data.get("format_version") != POOL_FORMAT_VERSION:
        return "it has no format_version"
    keys = {"format_version", *(part.name for part in fields(PoolManifest))}
    if problem := _key_problem(data, keys, "it"):
        return problem
    if not _is_line(data["name"]) or not (data["license"] is None or _is_line(data["license"])):
        return "name or license is no text of one line"
    base, vectors = data["base"], data["vectors"]
    if problem := _key_problem(base, {part.name for part in fields(BaseReference)}, "base"):
        return problem
    if not _is_line(base["label"]) or not _matches(_FINGERPRINT, base["fingerprint"]):
        return "base has no label or no fingerprint"
    if (base["repo"], base["revision"]) != (None, None) and (problem := _place_problem(base)):
        return f"base: {problem}"
    if not isinstance(vectors, dict) or not vectors:
        return "it names no vectors"
    return _vectors_problem(vectors)


def _vectors_problem(vectors: Mapping[str, Any]) -> str | None:
    seen: dict[str, str] = {}
    for name, member in sorted(vectors.items()):
        if not is_name(name):
            return f"{_shown(name)} cannot be a vector's name (letters, digits, '.', '_' and '-', 64 at most)"
        if other := seen.get(name.lower()):
            return f"{other} and {name} would be one folder where case does not count"
        seen[name.lower()] = name
        problem = _key_problem(member, {"repo", "revision"}, "it") or _place_problem(member)
        if problem:
            return f"vector {name}: {problem}"
    return None


def _place_problem(place: Mapping[str, Any]) -> str | None:
    if not _matches(REPO, place["repo"]):
        return f"{_shown(place['repo'])} is no repository (owner/name)"
    if not _matches(_COMMIT, place["revision"]):
        return f"its revision {_shown(place['revision'])} is no commit (40 hex digits)"
    return None


def _key_problem(value: Any, keys: set[str], what: str) -> str | None:
    if not isinstance(value, dict):
        return f"{what} is no mapping"
    if unknown := sorted(set(value) - keys):
        return f"{what} has an unknown key {_shown(unknown[0])}"
    if lacking := sorted(keys - set(value)):
        return f"{what} lacks {lacking[0]}"
    return None


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 200 and pattern.fullmatch(value) is not None


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
