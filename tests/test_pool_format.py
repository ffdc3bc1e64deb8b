"""The pool format as the README tells it: a vector written by its words alone, without this package, is taken."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_cards_hub import example

from mergekit_optimer.resources import hub_cards_dir
from mergekit_optimer.vectors import (
    RECORD,
    DistributionVector,
    extract_vector,
    load_pool,
    load_vector,
    model_fingerprint,
    module_kind,
)

Maker = Callable[..., Path]
README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
FORMAT = README.partition("### Pool format")[2].partition("\n## ")[0]
(PROBE,) = (json.loads(line) for line in FORMAT.splitlines() if line.startswith('    "The'))
# A kind is in the text as `norms` (norm, ln_), on as many lines as it takes.
KINDS = {kind: words.split(", ") for kind, words in re.findall(r"`(\w+)`\s\(([^)`]+)\)", FORMAT.replace("\n", " "))}


def kind_of(name: str) -> str:
    return next((kind for kind, words in KINDS.items() if any(word in name.lower() for word in words)), "other")


def base_fingerprint(path: Path) -> str:
    """From the bytes of a safetensors file, read by its own format's description."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    dtypes, digest = {"F32": "torch.float32", "BF16": "torch.bfloat16"}, hashlib.sha256()
    for name in sorted(header):
        begin, end = header[name]["data_offsets"]
        digest.update(f"{name} {dtypes[header[name]['dtype']]} {tuple(header[name]['shape'])}\n".encode())
        digest.update(content[start + begin : start + end])
    return digest.hexdigest()


def tokenizer_fingerprint(folder: Path) -> str:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = sorted(([token, number] for token, number in tokenizer.get_vocab().items()), key=lambda pair: pair[1])
    content = [vocabulary, sorted(tokenizer.all_special_tokens), tokenizer(PROBE)["input_ids"]]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def write_vector(checkpoint_dir: Path, base_dir: Path, folder: Path) -> None:
    """Write a vector's folder as the README says."""
    folder.mkdir()
    theta, cpt = load_file(base_dir / "model.safetensors"), load_file(checkpoint_dir / "model.safetensors")
    tau = {name: cpt[name] - theta[name] for name in theta}
    save_file(tau, folder / "model.safetensors")
    for file in base_dir.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    groups = {"total": list(tau)} | {
        kind: [name for name in tau if kind_of(name) == kind] for kind in (*KINDS, "other")
    }
    flat = {
        group: torch.cat([tau[name].double().flatten() for name in names]) for group, names in groups.items() if names
    }
    base = {group: torch.cat([theta[name].flatten() for name in groups[group]]) for group in flat}

    def applied(group: str, dtype: torch.dtype) -> float:
        kept = (base[group] + flat[group].float()).to(dtype).double() - base[group].double()
        return float(kept @ flat[group] / (flat[group] @ flat[group])) if flat[group].any() else 1.0

    norms = {group: float(vector.norm()) for group, vector in flat.items()}
    record = {
        "format_version": 2,
        "name": "ja",
        "base_label": "org/base",
        "base_fingerprint": base_fingerprint(base_dir / "model.safetensors"),
        "tokenizer_fingerprint": tokenizer_fingerprint(base_dir),
        "dtype": "float32",
        "norm": norms.pop("total"),
        "base_norm": float(base["total"].double().norm()),
        "norms": norms,
        "applied_fraction": {
            name: {group: applied(group, getattr(torch, name)) for group in flat}
            for name in ("bfloat16", "float16", "float32")
        },
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()},
    }
    (folder / RECORD).write_text(json.dumps(record))


def test_a_vector_that_is_written_by_the_readme_alone_is_taken_and_as_ours(
    base_dir: Path, tiny_model: Maker, tmp_path: Path
) -> None:
    checkpoint_dir = tiny_model("cpt", seed=1)
    write_vector(checkpoint_dir, base_dir, tmp_path / "theirs")
    ours = asdict(extract_vector("ja", checkpoint_dir, base_dir, tmp_path / "ours", "org/base"))
    theirs = asdict(load_pool(base_dir, {"ja": tmp_path / "theirs"}).vectors["ja"])
    for key in ("norm", "base_norm", "norms"):
        assert theirs.pop(key) == pytest.approx(ours.pop(key), rel=1e-9), key
    for dtype, fractions in ours.pop("applied_fraction").items():
        assert theirs["applied_fraction"][dtype] == pytest.approx(fractions, rel=1e-6), dtype
    weights = (ours.pop("files"), theirs.pop("files"))
    assert set(weights[0]) == set(weights[1])
    del theirs["applied_fraction"]
    assert theirs == ours


def test_the_fingerprint_of_a_base_in_bfloat16_is_as_written(tiny_model: Maker) -> None:
    folder = tiny_model("half", dtype="bfloat16")
    assert base_fingerprint(folder / "model.safetensors") == model_fingerprint(folder)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_the_kinds_of_modules_are_as_written(tiny_model: Maker, arch: str) -> None:
    names = [
        *load_file(tiny_model(f"kinds-{arch}", arch=arch) / "model.safetensors"),
        "model.x",
        "h.0.fc.w",
        "A.Experts",
    ]
    assert {name: kind_of(name) for name in names} == {name: module_kind(name) for name in names}


def test_the_readme_names_the_keys_of_a_record_and_no_others() -> None:
    rows = [line for line in FORMAT.partition("| key |")[2].splitlines() if line.startswith("| `")]
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == {part.name for part in fields(DistributionVector)}


def test_the_example_record_is_read_and_is_the_example_cards() -> None:
    record, card = load_vector(hub_cards_dir() / "examples/vector"), example("vector")
    facts: dict[str, Any] = {key: getattr(record, key) for key in ("name", "norm", "relative_norm", "dtype", "source")}
    places = ("base_label", "base_repo", "base_revision", "base_fingerprint", "dataset", "dataset_repo")
    facts |= {key: getattr(record, key) for key in (*places, "dataset_revision")}
    assert facts == {key: getattr(card, key) for key in facts}
    assert record.norm**2 == pytest.approx(sum(norm**2 for norm in record.norms.values()), rel=1e-3)
    assert record.applied_fraction["float32"]["total"] == card.applied_fraction
    assert record.training is not None
    assert record.training["n_tokens_trained"] == card.n_tokens
