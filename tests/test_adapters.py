"""LoRA adapters as vectors: the base plus the vector is the base with the adapter, or there is no vector."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback_client import Client
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file

from mergekit_optimer.errors import DiskError, VectorError
from mergekit_optimer.hub import ADAPTER_FILES
from mergekit_optimer.vectors import TensorFolder, check_adapter, extract_adapter, load_pool

pytest_plugins = ["loopback_fixtures"]

Maker = Callable[..., Path]
PROBE = torch.tensor([[5, 300, 17, 383, 0, 42, 128, 9]])


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=PROBE).logits.clone()


def make_adapter(base_dir: Path, folder: Path, seed: int = 0, **options: Any) -> torch.Tensor:
    """Write an adapter whose every tensor is random; returns the logits of the base with it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(**({"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8} | options))
    model = get_peft_model(load(base_dir), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder, save_embedding_layers=False)
    return logits(model)


def base_plus(vector_dir: Path, base_dir: Path, folder: Path) -> torch.Tensor:
    """The logits of the base's own file plus the vector's."""
    shutil.copytree(base_dir, folder)
    tau = load_file(vector_dir / "model.safetensors")
    theta = load_file(folder / "model.safetensors")
    save_file(
        {name: (theta[name].float() + tau[name]).to(theta[name].dtype) for name in theta},
        folder / "model.safetensors", {"format": "pt"},
    )  # fmt: skip
    return logits(load(folder))


ATTENTION = ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ({}, {"target_modules": ATTENTION}),
        ({"tied": False}, {"target_modules": "all-linear"}),
        ({}, {"target_modules": ATTENTION, "use_rslora": True}),
        ({}, {"target_modules": ATTENTION, "use_dora": True}),
        ({}, {"target_modules": ATTENTION, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 32}}),
        ({}, {"target_modules": ["down_proj"], "modules_to_save": ["norm"]}),
        ({"tied": False}, {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]}),
        ({"tied": False}, {"target_modules": ["embed_tokens", "q_proj"]}),
        ({"attention_bias": True}, {"target_modules": ATTENTION, "bias": "lora_only"}),
        ({}, {"target_modules": ATTENTION, "trainable_token_indices": [17, 300]}),
        ({"arch": "gpt2"}, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
        ({"arch": "qwen3"}, {"target_modules": ATTENTION, "layers_to_transform": [1]}),
    ],
    ids=["tied", "all-linear", "rslora", "dora", "patterns", "norm saved", "embeddings saved", "embedding lora", "bias",
         "tokens", "fan_in_fan_out", "one layer"],
)  # fmt: skip
def test_base_plus_vector_is_the_base_with_the_adapter(
    tiny_model: Maker, tmp_path: Path, base: dict[str, Any], options: dict[str, Any]
) -> None:
    base_dir = tiny_model("base", **base)
    wanted = make_adapter(base_dir, tmp_path / "adapter", **options)
    assert not torch.allclose(wanted, logits(load(base_dir)), atol=1e-2)
    vector = extract_adapter("ja", tmp_path / "adapter", base_dir, tmp_path / "ja", "org/base@abc")
    assert vector.norm > 0
    assert load_pool(base_dir, {"ja": tmp_path / "ja"}).names == ["ja"]
    torch.testing.assert_close(base_plus(tmp_path / "ja", base_dir, tmp_path / "sum"), wanted, rtol=1e-3, atol=1e-4)


def test_the_same_adapter_gives_the_same_vector_in_bfloat16_over_a_bfloat16_base(
    tiny_model: Maker, tmp_path: Path
) -> None:
    base_dir = tiny_model("half", dtype="bfloat16")
    make_adapter(base_dir, tmp_path / "adapter", target_modules=ATTENTION)
    exact = extract_adapter("ja", tmp_path / "adapter", base_dir, tmp_path / "exact", "base")
    stored = extract_adapter("ja", tmp_path / "adapter", base_dir, tmp_path / "stored", "base", "bfloat16")
    assert stored.norm == pytest.approx(exact.norm, rel=1e-2)
    key = "model.layers.0.self_attn.v_proj.weight"
    weights = load_file(tmp_path / "adapter/adapter_model.safetensors")
    a, b = (weights[f"base_model.model.model.layers.0.self_attn.v_proj.lora_{part}.weight"] for part in "AB")
    torch.testing.assert_close(TensorFolder(tmp_path / "exact").get(key), 2 * b @ a, rtol=1e-3, atol=1e-4)
    untouched = TensorFolder(tmp_path / "exact").get("model.layers.0.mlp.up_proj.weight")
    assert not untouched.any()


def edit_config(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module")
def made(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "adapter"
    make_adapter(base_dir, folder, target_modules=ATTENTION)
    return folder


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    """A good adapter of the base, to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "adapter"))


def refusal(adapter: Path, base_dir: Path) -> str:
    """The sentence for an adapter that is refused before any weight of the base is loaded."""
    with pytest.raises(VectorError) as caught:
        check_adapter("ja", adapter, base_dir, "org/base@abc")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_adapter_of_a_wider_base_is_refused_by_shape(adapter: Path, tiny_model: Maker) -> None:
    found = refusal(adapter, tiny_model("wide", hidden_size=64))
    assert "of shape (4, 32), org/base@abc needs (4, 64); it belongs to another model" in found


def test_an_adapter_of_a_deeper_base_is_refused_by_its_modules(adapter: Path, tiny_model: Maker) -> None:
    found = refusal(adapter, tiny_model("flat", num_hidden_layers=1))
    assert "layers.1.self_attn.q_proj.lora_A.weight, for which org/base@abc has no module (4 of 8 tensors)" in found


def test_an_adapter_of_another_architecture_is_refused(adapter: Path, tiny_model: Maker) -> None:
    assert "Adapter 'ja' does not go with org/base@abc: Target modules" in refusal(
        adapter, tiny_model("g", arch="gpt2")
    )


def test_an_adapter_of_a_shallower_base_is_refused_not_left_at_its_start(adapter: Path, tiny_model: Maker) -> None:
    found = refusal(adapter, tiny_model("deep", num_hidden_layers=3))
    assert "lacks base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight" in found


def test_an_adapter_with_nan_is_refused(adapter: Path, base_dir: Path) -> None:
    edit_tensors(adapter, lambda tensors: next(iter(tensors.values())).fill_(float("nan")))
    assert "has NaN or Inf in base_model.model.model.layers.0" in refusal(adapter, base_dir)


def test_a_truncated_adapter_is_refused(adapter: Path, base_dir: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "is truncated or no safetensors file" in refusal(adapter, base_dir)


def test_an_adapter_that_is_there_as_pickle_only_is_refused(adapter: Path, base_dir: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "as pickle only" in (found := refusal(adapter, base_dir))
    assert "allow_pickle: true" in found


def test_a_folder_without_adapter_is_refused(base_dir: Path) -> None:
    assert "holds no adapter_config.json, so it is no PEFT adapter" in refusal(base_dir, base_dir)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "is no LoRA but 'IA3'"),
        ({"peft_type": None}, "is no LoRA but None"),
        ({"task_type": "SEQ_CLS"}, "is for 'SEQ_CLS'; wanted is one of a causal language model"),
        ({"init_lora_weights": "pissa_niter_4"}, "was begun with 'pissa_niter_4', which changes the base"),
        ({"megatron_config": {"a": 1}}, "sets megatron_config, which is no change of the base's tensors"),
        ({"alora_invocation_tokens": [1]}, "sets alora_invocation_tokens"),
        ({"of_a_later_peft": True}, "sets of_a_later_peft"),
        ({"r": "four"}, "does not go with org/base@abc"),
        ({"target_modules": ["x_proj"]}, "does not go with org/base@abc: Target modules"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_no_plain_lora_is_refused(adapter: Path, base_dir: Path, changes: dict[str, Any], words: str) -> None:
    edit_config(adapter, **changes)
    assert words in refusal(adapter, base_dir)


@pytest.mark.parametrize(
    "options", [{"target_modules": ["embed_tokens", "q_proj"]}, {"modules_to_save": ["embed_tokens"]}], ids=str
)
def test_an_embedding_trained_apart_from_its_tied_output_layer_is_refused(
    base_dir: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    make_adapter(base_dir, tmp_path / "adapter", **({"target_modules": ATTENTION} | options))
    with pytest.raises(VectorError, match=r"cannot be merged into the tensors of base@1: .*tied.* Untie the base"):
        extract_adapter("ja", tmp_path / "adapter", base_dir, tmp_path / "ja", "base@1")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_base_under_other_names_than_transformers_writes_is_refused(
    adapter: Path, base_dir: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(base_dir, tmp_path / "other"))
    theta = load_file(other / "model.safetensors")
    save_file(
        {name.removeprefix("model."): tensor for name, tensor in theta.items()},
        other / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(VectorError, match="under another name; load the base, save it with save_pretrained"):
        extract_adapter("ja", adapter, other, tmp_path / "ja", "base")


def test_a_full_disk_is_no_fault_of_the_adapter(
    adapter: Path, base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(DiskError, match="Adapter 'ja' cannot be merged: No space left on device"):
        extract_adapter("ja", adapter, base_dir, tmp_path / "ja", "base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_only_the_files_of_an_adapter_are_fetched(
    hub: LoopbackHub, client: Client, adapter: Path, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in adapter.iterdir()}
    others = {
        "training_args.bin": b"x",
        "adapter_model.bin": b"x",
        "tokenizer.json": b"{}",
        "checkpoint-1/a.json": b"{}",
    }
    hub.state.add_repo("org/lora", files | others)
    answer = client.call(do="pull", repo="org/lora", home=tmp_path, files=ADAPTER_FILES)
    found = sorted(path.name for path in Path(answer["path"]).rglob("*"))
    assert found == ["adapter_config.json", "adapter_model.safetensors"]
