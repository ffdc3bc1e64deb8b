"""On a GPU: the bits of a merge are those of a CPU and of mergekit there, kept or sent; scores and slopes agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from merge_pool import Maker, Pool, bits, same

from mergekit_optimer.cli import cli
from mergekit_optimer.evaluate import load_model
from mergekit_optimer.kernel import Term, add_vectors
from mergekit_optimer.merge import Ingredient, merge_yaml
from mergekit_optimer.method import register
from mergekit_optimer.resident import ResidentMerge, memory

WEIGHTS = {"ja": 0.8, "math": -0.35}

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kinds", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float64)])
def test_a_sum_has_the_bits_of_a_cpu(dtype: torch.dtype, kinds: tuple[torch.dtype, ...]) -> None:
    made = torch.Generator().manual_seed(0)
    base = torch.randn(4099, generator=made).to(dtype)
    terms = [
        Term(weight, torch.randn(4099, generator=made).to(kind), base if referred else None)
        for weight, kind, referred in zip((0.7, -0.3, 1.1, 0.45), kinds * 2, (False, False, False, True), strict=True)
    ]
    there = base.cuda()
    sent = [Term(t.weight, t.tensor.cuda(), None if t.reference is None else there) for t in terms]
    for n in (1, 3, 4):
        assert torch.equal(bits(add_vectors(there, sent[:n])), bits(add_vectors(base, terms[:n])))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kept", [True, False])
def test_the_live_model_is_the_same_on_gpu_and_cpu(tiny_model: Maker, tmp_path: Path, dtype: str, kept: bool) -> None:
    made = Pool(tiny_model, tmp_path, dtype=dtype)
    base, vectors = made.base, made.vectors
    there, here = load_model(base, "cuda"), load_model(base, "cpu")
    on_gpu, on_cpu = (ResidentMerge(model, base, vectors) for model in (there, here))
    if not kept:
        assert on_gpu.let_go()
    for weights in (WEIGHTS, {"ja": 0.0, "math": 1.0}, {"ja": 0.0, "math": 0.0}, WEIGHTS):
        on_gpu.merge(weights)
        on_cpu.merge(weights)
        assert same(there, here)


def test_copies_are_kept_while_there_is_room_and_the_rest_is_sent(
    tiny_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Pool(tiny_model, tmp_path)
    base, vectors = made.base, made.vectors
    here = load_model(base, "cpu")
    ResidentMerge(here, base, vectors).merge(WEIGHTS)
    whole = sum(parameter.nbytes for parameter in here.parameters())
    monkeypatch.setattr(memory, "WORKING_BYTES", {"cpu": 0, "cuda": 0})
    monkeypatch.setattr(memory, "_SPARE_BYTES", 0)
    there = load_model(base, "cuda")
    held = []
    for free in (0, 2.5 * whole, 100 * whole):
        monkeypatch.setattr(memory, "_free_on", lambda _device, free=free: int(free))
        merge = ResidentMerge(there, base, vectors)
        held.append(merge.kept_bytes)
        merge.merge(WEIGHTS)
        assert same(there, here)
        merge.merge(dict.fromkeys(WEIGHTS, 0.0))
    assert held[0] == 0 < held[1] < held[2]


def test_a_tensor_longer_than_the_pinned_blocks_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from mergekit_optimer.resident import sources

    monkeypatch.setattr(sources, "_BLOCK_BYTES", 1000)
    ring = sources._Ring(torch.device("cuda"))
    for shape in ((), (0, 3), (7,), (33, 77), (4096,)):
        tensor = torch.randn(shape).bfloat16()
        assert torch.equal(bits(ring.send(tensor)), bits(tensor))


def test_mergekit_writes_the_same_bits_there(tiny_model: Maker, tmp_path: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    register()
    made = Pool(tiny_model, tmp_path, dtype="bfloat16")
    base, vectors = made.base, made.vectors
    ingredients = {name: Ingredient(str(path)) for name, path in vectors.items()}
    text = merge_yaml(str(base), ingredients, WEIGHTS, "bfloat16")
    options = MergeOptions(device="cuda", quiet=True, write_model_card=False, copy_tokenizer=True)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(tmp_path / "merged"), options)
    there = load_model(base, "cuda")
    ResidentMerge(there, base, vectors).merge(WEIGHTS)
    assert same(there, load_model(tmp_path / "merged", "cuda"))


def test_slopes_agree(tiny_model: Maker, tmp_path: Path) -> None:
    made = Pool(tiny_model, tmp_path)
    base, vectors = made.base, made.vectors
    ids = (torch.arange(24) * 7 % 384)[None]
    found = []
    for device in ("cpu", "cuda", "cuda"):
        model = load_model(base, device)
        merge = ResidentMerge(model, base, vectors)
        if len(found) == 2:
            merge.let_go()
        merge.merge(WEIGHTS)
        with merge.slopes() as slopes, torch.enable_grad():
            logits = model(input_ids=ids.to(device)).logits[0, :-1]
            torch.nn.functional.cross_entropy(logits, ids[0, 1:].to(device)).backward()
        found.append(dict(slopes))
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-5)
    assert found[2] == pytest.approx(found[1], rel=1e-6)


def test_a_whole_run_there(tiny_model: Maker, tmp_path: Path) -> None:
    base = tiny_model("base-run")
    for start, name in enumerate(("learn", "dev", "held_out")):
        numbers = range(100 * start, 100 * start + 12)
        texts = [f"def f{number}(x):\n    return x + {number} * {number % 7}\n" * 3 for number in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    task = {"kind": "text", "max_tokens": 24}
    recipe = {
        "name": "run",
        "seed": 0,
        "base_model": {"path": str(base)},
        "train": {
            "defaults": {"max_steps": 4, "per_device_train_batch_size": 2, "max_length": 32, "learning_rate": 1e-3},
            "datasets": {"code": {"path": "learn.jsonl"}, "more": {"path": "learn.jsonl", "learning_rate": 1e-2}},
        },
        "search": {
            "n_trials": 8,
            "weights": {"low": -0.5, "high": 1.25},
            "warm_starts": ["zero", "half", "gradient"],
            "rungs": [{"n_samples": 12}],
            "objective": {"mean": ["code"]},
        },
        "tasks": {"code": task | {"path": "dev.jsonl"}},
        "held_out": {"code": task | {"path": "held_out.jsonl"}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    words = ["run", str(path), "--device", "cuda", "--run-dir", str(tmp_path / "run")]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run/report/report.json").read_text())
    assert {"winner", "base_model", "ties"} <= set(report["scores"]["held_out"])
