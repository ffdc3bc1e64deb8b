"""The vendored demo: nothing is in two parts, the files are the stated ones, and the base is what its README says."""

from __future__ import annotations

import hashlib
import itertools
import json
import lzma
import re
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parent.parent / "recipes/demo/data"
DOMAINS = ("code", "en", "ja", "math", "zh")


def rows(path: Path) -> list[dict[str, object]]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def texts(part: str, domain: str) -> list[str]:
    path = DATA / ("base.jsonl.xz" if part == "base" else f"{domain}.{part}.jsonl.xz")
    return [str(row["text"]) for row in rows(path)] if path.exists() else []


def pieces(text: str) -> set[str]:
    """A document and its sentences or lines, by letters and digits only; short ones recur in any language."""
    parts = [text, *re.split(r"[\n。！？.!?]", text)]
    plain = {"".join(char for char in part if char.isalnum()).lower() for part in parts}
    return {piece for piece in plain if len(piece) >= 24}


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_document_stands_in_two_parts(domain: str) -> None:
    parts = {
        part: {"".join(text.split()) for text in texts(part, domain)} for part in ("base", "train", "dev", "held_out")
    }
    assert parts["dev"]
    assert parts["held_out"]
    for first, second in itertools.combinations(parts, 2):
        assert not parts[first] & parts[second], (domain, first, second)


@pytest.mark.parametrize("domain", ["ja", "en"])
def test_no_sentence_stands_in_two_parts(domain: str) -> None:
    parts = {
        part: set().union(*map(pieces, texts(part, domain))) if texts(part, domain) else set()
        for part in ("base", "train", "dev", "held_out")
    }
    for first, second in itertools.combinations(parts, 2):
        assert not parts[first] & parts[second], (domain, first, second)


@pytest.mark.parametrize(("domain", "prefix"), [("code", "stdlib-"), ("math", "math-"), ("zh", "law-")])
def test_modules_templates_and_laws_have_one_part_each(domain: str, prefix: str) -> None:
    """An id is what was split by, then the document's number in it."""
    files = {part: f"{domain}.{part}.jsonl.xz" for part in ("train", "dev", "held_out")} | {"base": "base.jsonl.xz"}
    parts = {}
    for part, file in files.items():
        ids = [str(row["id"]) for row in rows(DATA / file) if str(row["id"]).startswith(prefix)]
        assert len(set(ids)) == len(ids) > 0
        parts[part] = {one.rpartition("-")[0] for one in ids}
    for first, second in itertools.combinations(parts, 2):
        assert not parts[first] & parts[second], (domain, first, second)


def test_the_files_are_the_stated_ones() -> None:
    lines = (DATA / "SHA256SUMS").read_text().splitlines()
    assert len(lines) > 15
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((DATA / name.removeprefix("*")).read_bytes()).hexdigest() == digest, name


def test_each_text_has_its_licence_beside_it() -> None:
    readme = (DATA / "README.md").read_text()
    named = set(re.findall(r"LICENSES/([\w.-]+)", readme))
    assert named == {path.name for path in (DATA / "LICENSES").iterdir()}


def test_the_base_is_small_and_does_not_spell_japanese_in_bytes() -> None:
    from transformers import AutoConfig, AutoTokenizer

    assert (DATA / "base/model.safetensors").stat().st_size <= 5_000_000
    assert AutoConfig.from_pretrained(DATA / "base").model_type == "llama"
    tokenizer = AutoTokenizer.from_pretrained(DATA / "base")
    assert tokenizer.eos_token is not None
    for domain in ("ja", "zh"):
        sample = " ".join(texts("dev", domain)[:50])
        assert len(sample.encode()) / len(tokenizer(sample)["input_ids"]) > 2.5
