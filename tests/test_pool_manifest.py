"""pool.json: what a pool on the Hub is made of, and every manifest that nobody should follow, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mergekit_optimer.errors import VectorError
from mergekit_optimer.vectors import BaseReference, PoolManifest, PoolMember, read_manifest

SHA, OTHER = "0a" * 20, "1b" * 20
GOOD: dict[str, Any] = {
    "format_version": 1,
    "name": "my-pool",
    "license": "apache-2.0",
    "base": {"label": f"org/base@{SHA}", "repo": "org/base", "revision": SHA, "fingerprint": "c4" * 32},
    "vectors": {
        "ja": {"repo": "org/dv-ja", "revision": SHA},
        "math": {"repo": "org/dv-math", "revision": OTHER},
    },
}


def read(folder: Path, data: Any) -> PoolManifest:
    (folder / "pool.json").write_text(json.dumps(data))
    return read_manifest(folder, "org/pool@main")


def refusal(folder: Path, data: Any) -> str:
    with pytest.raises(VectorError) as caught:
        read(folder, data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_manifest_says_what_the_pool_is(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD) == PoolManifest(
        "my-pool",
        BaseReference(f"org/base@{SHA}", "org/base", SHA, "c4" * 32),
        {"ja": PoolMember("org/dv-ja", SHA), "math": PoolMember("org/dv-math", OTHER)},
        "apache-2.0",
    )


def test_a_manifest_is_written_as_it_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD).to_json() == GOOD


def test_a_local_base_and_no_licence_can_be_said(tmp_path: Path) -> None:
    local = {"label": "base", "repo": None, "revision": None, "fingerprint": "c4" * 32}
    manifest = read(tmp_path, GOOD | {"license": None, "base": local})
    assert (manifest.license, manifest.base.repo, manifest.base.label) == (None, None, "base")


MEMBER = {"repo": "org/dv-ja", "revision": SHA}


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/x", "C:x", "C:\\x", "a/b", "a\\b", "a\0b", "a\nb", "a\n", "", ".", "..", ".hidden", "x" * 65,
     "x" * 300, "日本"],
)  # fmt: skip
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    assert "cannot be a vector's name" in refusal(tmp_path, GOOD | {"vectors": {name: MEMBER}})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2}, "has format 2; this version reads 1. Update mergekit-optimer."),
        ({"format_version": "1"}, "it has no format_version"),
        ({"format_version": None}, "it has no format_version"),
        ({"vectors": {}}, "it names no vectors"),
        ({"vectors": ["ja"]}, "it names no vectors"),
        ({"vectors": {"ja": MEMBER, "JA": MEMBER}}, "JA and ja would be one folder where case does not count"),
        ({"vectors": {"ja": "org/dv-ja"}}, "vector ja: it is no mapping"),
        ({"vectors": {"ja": {"repo": "org/dv-ja"}}}, "vector ja: it lacks revision"),
        ({"vectors": {"ja": MEMBER | {"revision": "main"}}}, "vector ja: its revision 'main' is no commit"),
        ({"vectors": {"ja": MEMBER | {"revision": None}}}, "vector ja: its revision None is no commit"),
        ({"vectors": {"ja": MEMBER | {"revision": SHA.upper()}}}, "is no commit (40 hex digits)"),
        ({"vectors": {"ja": MEMBER | {"repo": "dv-ja"}}}, "vector ja: 'dv-ja' is no repository (owner/name)"),
        ({"vectors": {"ja": MEMBER | {"repo": "../../x"}}}, "is no repository (owner/name)"),
        ({"vectors": {"ja": MEMBER | {"repo": "https://x.y/a/b"}}}, "is no repository (owner/name)"),
        ({"vectors": {"ja": MEMBER | {"weight": 1.0}}}, "vector ja: it has an unknown key 'weight'"),
        ({"license": 3}, "name or license is no text of one line"),
        ({"name": "a\nb"}, "name or license is no text of one line"),
        ({"base": None}, "base is no mapping"),
        ({"base": GOOD["base"] | {"fingerprint": "x"}}, "base has no label or no fingerprint"),
        ({"base": GOOD["base"] | {"revision": "main"}}, "base: its revision 'main' is no commit"),
        ({"base": GOOD["base"] | {"repo": "../x"}}, "base: '../x' is no repository"),
        ({"merge": {}}, "it has an unknown key 'merge'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_manifest_that_cannot_be_followed_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    found = refusal(tmp_path, GOOD | change)
    assert found.startswith("pool.json of org/pool@main ")
    assert words in found


@pytest.mark.parametrize("data", [[], None, "pool", 1])
def test_what_is_no_manifest_is_refused(tmp_path: Path, data: Any) -> None:
    assert "is no vector pool" in refusal(tmp_path, data)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000], ids=["cut", "not utf-8", "deep"])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pool.json").write_bytes(content)
    with pytest.raises(VectorError, match=r"pool\.json of org/pool is no JSON; tell its owner, or push it anew"):
        read_manifest(tmp_path, "org/pool")


def test_a_repository_without_manifest_is_no_pool(tmp_path: Path) -> None:
    with pytest.raises(VectorError, match=r"org/base holds no pool\.json, so it is no vector pool"):
        read_manifest(tmp_path, "org/base")


def test_a_manifest_that_is_a_link_elsewhere_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text(json.dumps(GOOD))
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/pool.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(VectorError, match="leads out of its folder"):
        read_manifest(tmp_path / "pool", "org/pool")
