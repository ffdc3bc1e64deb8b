"""Merging: the right tensor by every road, and mergekit's silent mistakes refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mergekit_optimer.errors import InfrastructureError, MergeError, NotFiniteError, RunFolderError
from mergekit_optimer.kernel import Term, add_vectors
from mergekit_optimer.merge import Ingredient, merge_to_folder, merge_yaml, portable_yaml, stock_yaml
from mergekit_optimer.vectors import TensorFolder, extract_vector

Maker = Callable[..., Path]
WEIGHTS = {"code": 0.4, "ja": 0.8, "math": -0.35}
ARCHITECTURES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tied": False}),
    ("llama", {"dtype": "bfloat16"}),
    ("qwen3", {}),
    ("gemma3_text", {}),
    ("gpt2", {}),
]


class Pool:
    """A base with three checkpoints and their vectors."""

    def __init__(self, make: Maker, folder: Path, arch: str, options: dict[str, Any]) -> None:
        self.base = make(f"base-{folder.name}", arch=arch, seed=0, **options)
        self.dtype = str(options.get("dtype", "float32"))
        self.checkpoints, self.vectors = {}, {}
        for seed, name in enumerate(sorted(WEIGHTS), 1):
            # Checkpoints are kept in float32, as training saves them.
            kept = {key: value for key, value in options.items() if key != "dtype"}
            self.checkpoints[name] = make(f"{name}-{folder.name}", arch=arch, seed=seed, **kept)
            extract_vector(name, self.checkpoints[name], self.base, folder / name, "base")
            self.vectors[name] = folder / name

    def deltas(self) -> dict[str, Ingredient]:
        return {name: Ingredient(str(path)) for name, path in self.vectors.items()}

    def checkpointed(self) -> dict[str, Ingredient]:
        return {name: Ingredient(str(path), str(self.checkpoints[name])) for name, path in self.vectors.items()}

    def expected(self, weights: dict[str, float]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The merge in float64, and the size of one rounding step of the base's dtype at the terms' magnitude."""
        out = {}
        for name, theta in TensorFolder(self.base).items():
            terms = [w * TensorFolder(self.vectors[v]).get(name).double() for v, w in weights.items()]
            magnitude = sum((term.abs() for term in terms), theta.double().abs())
            out[name] = (theta.double() + sum(terms), magnitude * torch.finfo(theta.dtype).eps)
        return out


@pytest.fixture(scope="module")
def pool(tiny_model: Maker, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return Pool(tiny_model, tmp_path_factory.mktemp("pool"), "llama", {})


@pytest.mark.parametrize(("arch", "options"), ARCHITECTURES)
def test_the_merge_is_within_one_rounding_of_float64_for_each_architecture(
    tiny_model: Maker, tmp_path: Path, arch: str, options: dict[str, Any]
) -> None:
    pool = Pool(tiny_model, tmp_path, arch, options)
    text = merge_yaml(str(pool.base), pool.deltas(), WEIGHTS, pool.dtype)
    merged = TensorFolder(merge_to_folder(text, tmp_path / "out"))
    expected = pool.expected(WEIGHTS)
    # A float32 result carries the rounding of the float32 sum itself; a narrower one only its own.
    steps = 2 if pool.dtype == "float32" else 1
    assert set(expected) <= set(merged.names)
    for name, (exact, step) in expected.items():
        assert merged.get(name).dtype == getattr(torch, pool.dtype)
        assert bool(((merged.get(name).double() - exact).abs() <= steps * step).all())

    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == getattr(torch, pool.dtype)


def test_zero_weights_return_the_base_bit_for_bit(pool: Pool, tmp_path: Path) -> None:
    text = merge_yaml(str(pool.base), pool.deltas(), dict.fromkeys(WEIGHTS, 0.0), pool.dtype)
    merged = TensorFolder(merge_to_folder(text, tmp_path / "out"))
    for name, tensor in TensorFolder(pool.base).items():
        assert torch.equal(merged.get(name).view(torch.int32), tensor.view(torch.int32))


def test_one_weight_of_one_returns_the_checkpoint(pool: Pool, tmp_path: Path) -> None:
    weights = {"code": 0.0, "ja": 1.0, "math": 0.0}
    from_delta = merge_to_folder(merge_yaml(str(pool.base), pool.deltas(), weights, "float32"), tmp_path / "delta")
    models = [{"model": str(pool.checkpoints["ja"]), "parameters": {"weight": 1.0}}]
    config = {"merge_method": "distribution_arithmetic", "base_model": str(pool.base), "models": models}
    from_checkpoint = merge_to_folder(yaml.safe_dump(config), tmp_path / "checkpoint")
    for name, tensor in TensorFolder(pool.checkpoints["ja"]).items():
        assert torch.equal(TensorFolder(from_checkpoint).get(name), tensor)
        assert torch.allclose(TensorFolder(from_delta).get(name), tensor, rtol=0, atol=1e-7)


def test_the_portable_twins_agree_with_the_method(pool: Pool, tmp_path: Path) -> None:
    ours = merge_to_folder(merge_yaml(str(pool.base), pool.deltas(), WEIGHTS, "float32"), tmp_path / "ours")
    mixed = pool.deltas() | {"ja": pool.checkpointed()["ja"]}
    for number, (ingredients, method) in enumerate(
        [(pool.deltas(), "linear"), (mixed, "linear"), (pool.checkpointed(), "task_arithmetic")]
    ):
        twin = portable_yaml(str(pool.base), ingredients, WEIGHTS, "float32")
        assert yaml.safe_load(twin)["merge_method"] == method
        folder = TensorFolder(merge_to_folder(twin, tmp_path / f"twin{number}"))
        for name, tensor in TensorFolder(ours).items():
            assert torch.allclose(folder.get(name), tensor, rtol=1e-5, atol=2e-7)


def test_a_vector_with_its_own_base_is_that_difference_by_every_road(
    pool: Pool, tiny_model: Maker, tmp_path: Path
) -> None:
    own_base, it = tiny_model("own-base", seed=21), tiny_model("it", seed=22)
    extract_vector("it", it, own_base, tmp_path / "it", "own-base")
    delta = merge_yaml(str(pool.base), {"it": Ingredient(str(tmp_path / "it"))}, {"it": 0.5}, "float32")
    ingredient = {"it": Ingredient(str(tmp_path / "it"), str(it), str(own_base))}
    portable = portable_yaml(str(pool.base), ingredient, {"it": 0.5}, "float32")
    listed = [
        {"model": str(it), "parameters": {"weight": 0.5, "base": str(own_base)}},
        {"model": str(own_base), "parameters": {"weight": 0, "kind": "reference"}},
    ]
    method = {"merge_method": "distribution_arithmetic", "base_model": str(pool.base), "models": listed}
    merged = [
        TensorFolder(merge_to_folder(text, tmp_path / f"out{number}"))
        for number, text in enumerate([delta, portable, yaml.safe_dump(method)])
    ]
    for name, theta in TensorFolder(pool.base).items():
        exact = theta.double() + 0.5 * (TensorFolder(it).get(name).double() - TensorFolder(own_base).get(name).double())
        for folder in merged:
            assert torch.allclose(folder.get(name).double(), exact, rtol=1e-5, atol=2e-7)


def test_a_checkpoint_whose_own_base_is_the_base_beside_a_delta_has_a_right_twin(pool: Pool, tmp_path: Path) -> None:
    base = str(pool.base)
    ingredients = pool.deltas() | {"ja": Ingredient(str(pool.vectors["ja"]), str(pool.checkpoints["ja"]), base)}
    ours = TensorFolder(merge_to_folder(merge_yaml(base, ingredients, WEIGHTS, "float32"), tmp_path / "ours"))
    twin = TensorFolder(merge_to_folder(portable_yaml(base, ingredients, WEIGHTS, "float32"), tmp_path / "twin"))
    for name, tensor in ours.items():
        assert torch.allclose(twin.get(name), tensor, rtol=1e-5, atol=2e-7)


def test_vectors_of_one_checkpoint_are_summed_in_the_twin(pool: Pool) -> None:
    shared = str(pool.checkpoints["ja"])
    ingredients = {name: Ingredient(str(pool.vectors["ja"]), shared) for name in ("a", "b")}
    twin = yaml.safe_load(portable_yaml(str(pool.base), ingredients, {"a": 0.25, "b": 0.5}, "float32"))
    assert twin["models"] == [{"model": shared, "parameters": {"weight": 0.75}}]


def test_what_a_narrow_dtype_cannot_hold_is_refused(tiny_model: Maker, tmp_path: Path) -> None:
    base = tiny_model("half-base", dtype="float16")
    extract_vector("v", tiny_model("half-cpt", seed=1), base, tmp_path / "v", "base")
    text = merge_yaml(str(base), {"v": Ingredient(str(tmp_path / "v"))}, {"v": 1.0e8}, "float16")
    with pytest.raises(NotFiniteError, match=r"NaN or Inf in .* too large for torch.float16"):
        merge_to_folder(text, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_memory_that_gives_out_in_mergekit_is_the_machines_fault(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("mergekit.merge.run_merge", out_of_memory)
    with pytest.raises(InfrastructureError, match="Memory ran out while merging into out"):
        merge_to_folder(merge_yaml(str(pool.base), pool.deltas(), WEIGHTS, "float32"), tmp_path / "out")


def test_the_order_in_the_file_does_not_change_the_merge(pool: Pool, tmp_path: Path) -> None:
    config = yaml.safe_load(merge_yaml(str(pool.base), pool.deltas(), WEIGHTS, "float32"))
    folders = []
    for number, models in enumerate(itertools.permutations(config["models"])):
        text = yaml.safe_dump(config | {"models": list(models)})
        folders.append(TensorFolder(merge_to_folder(text, tmp_path / f"out{number}")))
    for name in folders[0].names:
        assert all(torch.equal(folder.get(name), folders[0].get(name)) for folder in folders[1:])


def test_lambda_filters_and_gradients_reach_the_method(pool: Pool, tmp_path: Path) -> None:
    weight = [{"filter": "mlp", "value": [0.0, 1.0]}, {"value": 0.25}]
    entry = {"model": str(pool.vectors["ja"]), "parameters": {"weight": weight, "kind": "delta"}}
    config = {
        "merge_method": "distribution_arithmetic",
        "base_model": str(pool.base),
        "parameters": {"lambda": 2.0},
        "models": [entry],
    }
    merged = TensorFolder(merge_to_folder(yaml.safe_dump(config), tmp_path / "out"))
    base, tau = TensorFolder(pool.base), TensorFolder(pool.vectors["ja"])
    for name, factor in [
        ("model.layers.0.mlp.up_proj.weight", 0.0),
        ("model.layers.1.mlp.up_proj.weight", 2.0),
        ("model.layers.1.self_attn.q_proj.weight", 0.5),
    ]:
        assert torch.allclose(merged.get(name), base.get(name) + factor * tau.get(name), atol=1e-7)


def test_stock_baselines_run_and_differ(pool: Pool, tmp_path: Path) -> None:
    checkpoints = [str(path) for path in pool.checkpoints.values()]
    folders = {
        method: TensorFolder(
            merge_to_folder(stock_yaml(method, str(pool.base), checkpoints, "float32"), tmp_path / method)
        )
        for method in ("ties", "dare_linear")
    }
    again = TensorFolder(
        merge_to_folder(stock_yaml("dare_linear", str(pool.base), checkpoints, "float32"), tmp_path / "again")
    )
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(folders["ties"].get(name), folders["dare_linear"].get(name))
    assert torch.equal(folders["dare_linear"].get(name), again.get(name))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), True, "0.5"])
def test_a_weight_that_is_no_finite_number_is_refused(pool: Pool, tmp_path: Path, weight: object) -> None:
    models = [{"model": str(pool.vectors["ja"]), "parameters": {"weight": weight, "kind": "delta"}}]
    config = {"merge_method": "distribution_arithmetic", "base_model": str(pool.base), "models": models}
    with pytest.raises(MergeError, match="weight"):
        merge_to_folder(yaml.safe_dump(config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "key"),
    [("", "out_dtpe"), ("parameters", "lamda"), ("models", "wieght"), ("models", "role")],
)
def test_a_misspelt_key_that_mergekit_ignores_is_refused(pool: Pool, tmp_path: Path, place: str, key: str) -> None:
    config = yaml.safe_load(merge_yaml(str(pool.base), pool.deltas(), WEIGHTS, "float32"))
    if place == "models":
        config["models"][0]["parameters"][key] = 1.0
    elif place:
        config[place] = {key: 1.0}
    else:
        config[key] = "float32"
    with pytest.raises(MergeError, match=key):
        merge_to_folder(yaml.safe_dump(config), tmp_path / "out")


def test_an_existing_folder_is_never_merged_into(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(RunFolderError, match="exists"):
        merge_to_folder(merge_yaml(str(pool.base), pool.deltas(), WEIGHTS, "float32"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_rewritten_vector_is_read_again(pool: Pool, tmp_path: Path) -> None:
    extract_vector("v", pool.checkpoints["ja"], pool.base, tmp_path / "v", "base")
    text = merge_yaml(str(pool.base), {"v": Ingredient(str(tmp_path / "v"))}, {"v": 1.0}, "float32")
    merge_to_folder(text, tmp_path / "first")
    (tmp_path / "v").rename(tmp_path / "old")
    extract_vector("v", pool.checkpoints["code"], pool.base, tmp_path / "v", "base")
    second = TensorFolder(merge_to_folder(text, tmp_path / "second"))
    name = "model.norm.weight"
    assert torch.allclose(second.get(name), TensorFolder(pool.checkpoints["code"]).get(name), atol=1e-6)


def test_tensors_that_mergekit_drops_are_noticed(tiny_model: Maker, tmp_path: Path) -> None:
    base = tiny_model("biased", attention_bias=True)
    extract_vector("v", tiny_model("biased-cpt", seed=1, attention_bias=True), base, tmp_path / "v", "base")
    with pytest.raises(MergeError, match=r"left out model.layers.0.self_attn"):
        merge_to_folder(
            merge_yaml(str(base), {"v": Ingredient(str(tmp_path / "v"))}, {"v": 1.0}, "float32"), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_nan_in_a_vector_stops_the_merge(pool: Pool, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    extract_vector("v", pool.checkpoints["ja"], pool.base, tmp_path / "v", "base")
    tensors = load_file(tmp_path / "v" / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "v" / "model.safetensors", {"format": "pt"})
    with pytest.raises(MergeError, match=r"NaN or Inf in model.norm.weight"):
        merge_to_folder(
            merge_yaml(str(pool.base), {"v": Ingredient(str(tmp_path / "v"))}, {"v": 0.0}, "float32"), tmp_path / "out"
        )


def test_the_kernel_rounds_once_and_keeps_its_inputs() -> None:
    torch.manual_seed(0)
    base = torch.randn(3000).to(torch.bfloat16)
    taus = [torch.randn(3000) * 0.01 for _ in range(4)]
    weights = [0.8, -0.35, 0.5, -0.2]
    before = [tensor.clone() for tensor in (base, *taus)]
    merged = add_vectors(base, [Term(w, t) for w, t in zip(weights, taus, strict=True)])
    exact = base.double() + sum(w * t.double() for w, t in zip(weights, taus, strict=True))
    # 1 in 1,000 may lie so near a tie that the float32 sum falls to its other side.
    assert int((merged != exact.to(torch.bfloat16)).sum()) <= 3
    assert all(torch.equal(a, b) for a, b in zip(before, (base, *taus), strict=True))


def test_the_kernel_refuses_another_shape() -> None:
    with pytest.raises(MergeError, match="shape"):
        add_vectors(torch.zeros(3), [Term(1.0, torch.zeros(4))])
