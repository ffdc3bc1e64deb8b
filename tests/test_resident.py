"""The resident merge: the bits that mergekit writes, in the live model's own memory, and nothing else changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_pool import WEIGHTS, Maker, Pool, loss, same
from safetensors.torch import load_file, save_file

from mergekit_optimer.errors import MergeError, NotFiniteError
from mergekit_optimer.evaluate import load_model
from mergekit_optimer.kernel import Term, add_vectors
from mergekit_optimer.resident import ResidentMerge
from mergekit_optimer.vectors import TensorFolder, file_sha256

ARCHITECTURES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tied": False}),
    ("llama", {"dtype": "bfloat16"}),
    ("llama", {"tied": False, "dtype": "bfloat16"}),
    ("llama", {"dtype": "float16"}),
    ("qwen3", {}),
    ("qwen3", {"dtype": "bfloat16"}),
    ("gemma3_text", {}),
    ("gemma3_text", {"dtype": "bfloat16"}),
    ("gpt2", {}),
    ("gpt2", {"dtype": "bfloat16"}),
]
EXPERTS: list[tuple[str, dict[str, Any]]] = [
    ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}),
    ("mixtral", {"num_local_experts": 4}),
]


@pytest.mark.parametrize(("arch", "options"), ARCHITECTURES)
def test_the_live_model_is_the_merged_folder_bit_for_bit(
    tiny_model: Maker, tmp_path: Path, arch: str, options: dict[str, Any]
) -> None:
    pool = Pool(tiny_model, tmp_path, arch, **options)
    resident = pool.resident()
    for number, weights in enumerate(WEIGHTS[:2]):
        resident.merge(weights)
        assert same(pool.model, pool.merged(weights, tmp_path / f"{number}", options.get("dtype", "float32")))
    for weights in WEIGHTS[2:]:
        resident.merge(weights)
    resident.merge(dict.fromkeys(pool.vectors, 0.0))
    assert same(pool.model, load_model(pool.base, "cpu"))


def test_all_kinds_of_weights_give_the_merged_folder(pool: Pool, tmp_path: Path) -> None:
    resident = pool.resident()
    for number, weights in enumerate(WEIGHTS):
        resident.merge(weights)
        assert same(pool.model, pool.merged(weights, tmp_path / f"{number}", "float32"))


def test_a_merge_does_not_remember_the_one_before(pool: Pool) -> None:
    resident = pool.resident()
    resident.merge(WEIGHTS[0])
    first = {name: tensor.clone() for name, tensor in pool.model.state_dict().items()}
    for _ in range(3):
        for weights in WEIGHTS:
            resident.merge(weights)
    resident.merge(WEIGHTS[0])
    assert all(torch.equal(tensor, first[name]) for name, tensor in pool.model.state_dict().items())


def test_a_model_full_of_nan_is_merged_into_as_any_other(pool: Pool) -> None:
    resident = pool.resident()
    for parameter in pool.model.parameters():
        parameter.data.fill_(float("nan"))
    resident.merge(dict.fromkeys(pool.vectors, 0.0))
    assert same(pool.model, load_model(pool.base, "cpu"))


def test_files_are_only_read_and_parameters_stay_where_they_are(pool: Pool) -> None:
    files = [folder / "model.safetensors" for folder in (pool.base, *pool.vectors.values())]
    sums = [file_sha256(file) for file in files]
    places = {name: parameter.data_ptr() for name, parameter in pool.model.named_parameters()}
    for parameter in pool.model.parameters():
        parameter.requires_grad_(True)
    resident = pool.resident()
    resident.merge(WEIGHTS[0])
    assert [file_sha256(file) for file in files] == sums
    assert {name: parameter.data_ptr() for name, parameter in pool.model.named_parameters()} == places
    assert resident.names == ["ja", "math"]
    assert resident.size_bytes == sum(p.numel() * 4 for p in pool.model.parameters())


@pytest.mark.parametrize(("arch", "options"), EXPERTS)
def test_experts_that_loading_fuses_are_merged_where_they_lie(
    tiny_model: Maker, tmp_path: Path, arch: str, options: dict[str, Any]
) -> None:
    pool = Pool(tiny_model, tmp_path, arch, tied=False, **options)
    assert len(TensorFolder(pool.base).names) > len(pool.model.state_dict())
    pool.resident().merge(WEIGHTS[0])
    # mergekit does not know every mixture: the stored tensors merged by hand.
    deltas = {name: TensorFolder(folder) for name, folder in pool.vectors.items()}
    by_hand = {
        name: add_vectors(tensor, [Term(WEIGHTS[0][v], deltas[v].get(name)) for v in sorted(deltas)])
        for name, tensor in TensorFolder(pool.base).items()
    }
    shutil.copytree(pool.base, tmp_path / "merged")
    save_file(by_hand, tmp_path / "merged" / "model.safetensors", {"format": "pt"})
    assert same(pool.model, load_model(tmp_path / "merged", "cpu"))


def test_gemma_3_with_its_image_tower_is_found_under_its_stored_names(tiny_model: Maker, tmp_path: Path) -> None:
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 384}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    pool = Pool(tiny_model, tmp_path, "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=1)
    stored = TensorFolder(pool.base)
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    assert name in stored
    assert name not in pool.model.state_dict()
    resident = pool.resident()
    resident.merge({"ja": 1.0, "math": 0.0})
    live = pool.model.state_dict()["model.language_model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(live, stored.get(name) + TensorFolder(pool.vectors["ja"]).get(name))
    resident.merge({"ja": 0.0, "math": 0.0})
    assert same(pool.model, load_model(pool.base, "cpu"))


def test_an_old_checkpoint_without_the_models_prefix_is_found(tiny_model: Maker, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model("new-names", arch="gpt2"), tmp_path / "old")
    stored = {name.removeprefix("transformer."): t for name, t in load_file(base / "model.safetensors").items()}
    save_file(stored, base / "model.safetensors", {"format": "pt"})
    save_file({n: torch.ones_like(t) for n, t in stored.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    model = load_model(base, "cpu")
    ResidentMerge(model, base, {"ones": tmp_path}).merge({"ones": 2.0})
    assert torch.equal(model.state_dict()["transformer.wte.weight"], stored["wte.weight"] + 2.0)


def test_a_model_in_another_dtype_than_its_files_is_rounded_as_by_saving_and_loading(
    tiny_model: Maker, tmp_path: Path
) -> None:
    pool = Pool(tiny_model, tmp_path, dtype="bfloat16")
    saved = pool.merged(WEIGHTS[0], tmp_path / "out", "bfloat16")
    pool.model = load_model(pool.base, "cpu", dtype=torch.float32)
    pool.resident().merge(WEIGHTS[0])
    assert pool.model.state_dict()["model.norm.weight"].dtype == torch.float32
    assert same(pool.model, saved.float())


def test_a_tied_output_layer_stored_twice_is_written_once(tiny_model: Maker, tmp_path: Path) -> None:
    pool = Pool(tiny_model, tmp_path)
    for number, folder in enumerate((pool.base, pool.vectors["ja"], pool.vectors["math"])):
        copy = shutil.copytree(folder, tmp_path / f"twice{number}")
        tensors = load_file(copy / "model.safetensors")
        save_file(
            tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
            copy / "model.safetensors",
            {"format": "pt"},
        )
    base, vectors = tmp_path / "twice0", {"ja": tmp_path / "twice1", "math": tmp_path / "twice2"}
    model = load_model(base, "cpu")
    resident = ResidentMerge(model, base, vectors)
    resident.merge(WEIGHTS[0])
    once_stored = pool.resident()
    once_stored.merge(WEIGHTS[0])
    assert same(model, pool.model)
    with resident.slopes() as twice:
        loss(model).backward()
    with once_stored.slopes() as once:
        loss(pool.model).backward()
    assert twice == once

    tensors = load_file(vectors["ja"] / "model.safetensors")
    tensors["lm_head.weight"][0] += 1.0
    save_file(tensors, vectors["ja"] / "model.safetensors", {"format": "pt"})
    with pytest.raises(MergeError, match=r"Vector 'ja' moves model.embed_tokens.weight and lm_head.weight apart"):
        ResidentMerge(load_model(base, "cpu"), base, vectors)


def test_vectors_of_another_model_are_refused_by_name_with_nothing_changed(
    pool: Pool, tiny_model: Maker, tmp_path: Path
) -> None:
    before = load_model(pool.base, "cpu")
    deeper = tiny_model("deeper", num_hidden_layers=3)
    wider = tiny_model("wider", intermediate_size=64)
    with pytest.raises(MergeError, match=r"Vector 'other' lacks model.layers.0.mlp.down_proj.weight, .* and 2 more"):
        ResidentMerge(pool.model, pool.base, {"other": wider})
    with pytest.raises(MergeError, match=r"no place for model.layers.2.input_layernorm.weight, .* and 5 more of"):
        ResidentMerge(pool.model, deeper, {})
    less = shutil.copytree(deeper, tmp_path / "less")
    kept = {name: t for name, t in load_file(deeper / "model.safetensors").items() if "layers.2.mlp" not in name}
    save_file(kept, less / "model.safetensors", {"format": "pt"})
    with pytest.raises(MergeError, match=r"does not hold model.layers.2.mlp.* of the live model whole"):
        ResidentMerge(load_model(deeper, "cpu"), less, {})
    with pytest.raises(MergeError, match=r"values of model.embed_tokens.weight, .* are not those of"):
        ResidentMerge(pool.model, tiny_model("other-seed", seed=9), {})
    assert same(pool.model, before)


def test_a_model_without_memory_of_its_own_is_refused(pool: Pool) -> None:
    with pytest.raises(MergeError, match=r"device 'meta'.*without offloading"):
        ResidentMerge(pool.model.to("meta"), pool.base, pool.vectors)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"ja": 1.0}, "the pool holds \\['ja', 'math'\\]"),
        ({"ja": 1.0, "maths": 0.5}, "the pool holds \\['ja', 'math'\\]"),
        ({"ja": 1.0, "math": float("nan")}, "weight of 'math' is nan"),
        ({"ja": float("-inf"), "math": 0.0}, "weight of 'ja' is -inf"),
    ],
)
def test_wrong_weights_change_nothing(pool: Pool, weights: dict[str, float], message: str) -> None:
    with pytest.raises(MergeError, match=message):
        pool.resident().merge(weights)
    assert same(pool.model, load_model(pool.base, "cpu"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_the_dtype_cannot_hold_is_said_and_the_next_merge_is_right(
    tiny_model: Maker, tmp_path: Path, dtype: str
) -> None:
    pool = Pool(tiny_model, tmp_path, dtype=dtype)
    resident = pool.resident()
    too_large = 1e8 if dtype == "float16" else 1e300
    with pytest.raises(NotFiniteError, match=rf"NaN or Inf in model.* too large for torch.{dtype}"):
        resident.merge({"ja": too_large, "math": 0.0})
    resident.merge({"ja": 1000.0, "math": 0.0})
    resident.merge(dict.fromkeys(pool.vectors, 0.0))
    assert same(pool.model, load_model(pool.base, "cpu"))


def test_a_model_dispatched_over_a_device_map_is_merged_where_its_parts_lie(pool: Pool, tmp_path: Path) -> None:
    from accelerate import dispatch_model

    # One kind of device is all there is here: the hooks are those of several.
    dispatched = dispatch_model(pool.model, {"model": "cpu", "lm_head": "cpu"}, force_hooks=True)
    resident = ResidentMerge(dispatched, pool.base, pool.vectors)
    resident.merge(WEIGHTS[0])
    assert same(dispatched, pool.merged(WEIGHTS[0], tmp_path / "merged", "float32"))
    assert same(load_model(pool.base, "cpu", device_map={"": "cpu"}), load_model(pool.base, "cpu"))
