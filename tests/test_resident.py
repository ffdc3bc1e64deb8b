"""The resident merge: the bits that mergekit writes, in the live model's own memory, and nothing else changed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergekit_optimer import machine
from mergekit_optimer.errors import InfrastructureError, MergeError, NotFiniteError
from mergekit_optimer.evaluate import load_model
from mergekit_optimer.kernel import Term, add_vectors
from mergekit_optimer.merge import Ingredient, merge_to_folder, merge_yaml
from mergekit_optimer.resident import ResidentMerge, check_memory, is_spread, memory
from mergekit_optimer.vectors import TensorFolder, extract_vector, file_sha256

Maker = Callable[..., Path]
WEIGHTS = [
    {"ja": 0.8, "math": -0.35},
    {"ja": 0.0, "math": 1.0},
    {"ja": -1.25, "math": 0.1},
    {"ja": 0.0, "math": 0.0},
    {"ja": 0.5, "math": 0.5},
]
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


class Pool:
    """A base, two vectors over it, and a live model."""

    def __init__(self, make: Maker, folder: Path, arch: str = "llama", **options: Any) -> None:
        self.base = make(f"base-{folder.name}", arch=arch, **options)
        kept = {key: value for key, value in options.items() if key != "dtype"}
        self.vectors = {}
        for seed, name in enumerate(("ja", "math"), 1):
            checkpoint = make(f"{name}-{folder.name}", arch=arch, seed=seed, **kept)
            # One vector in each storage dtype.
            dtype = "bfloat16" if name == "math" else "float32"
            extract_vector(name, checkpoint, self.base, folder / name, "base", dtype)
            self.vectors[name] = folder / name
        self.model = load_model(self.base, "cpu")

    def resident(self) -> ResidentMerge:
        return ResidentMerge(self.model, self.base, self.vectors)

    def merged(self, weights: dict[str, float], out_dir: Path, dtype: str) -> torch.nn.Module:
        """What mergekit writes for these weights, loaded."""
        ingredients = {name: Ingredient(str(path)) for name, path in self.vectors.items()}
        merge_to_folder(merge_yaml(str(self.base), ingredients, weights, dtype), out_dir)
        return load_model(out_dir, "cpu")


@pytest.fixture
def pool(tiny_model: Maker, tmp_path: Path) -> Pool:
    return Pool(tiny_model, tmp_path)


def same(model: torch.nn.Module, expected: torch.nn.Module) -> bool:
    """Whether two models hold the same bits under the same names."""
    ours, theirs = model.state_dict(), expected.state_dict()
    integers = {2: torch.int16, 4: torch.int32}
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == tensor.dtype
        and torch.equal(ours[name].view(integers[tensor.element_size()]), tensor.view(integers[tensor.element_size()]))
        for name, tensor in theirs.items()
    )


def loss(model: torch.nn.Module) -> torch.Tensor:
    ids = (torch.arange(24) * 7 % 384)[None]
    with torch.enable_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1]
        # transformers' own loss is float32 whatever the model.
        return torch.nn.functional.cross_entropy(logits, ids[0, 1:])


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


@pytest.mark.parametrize(
    ("arch", "options"),
    [("llama", {}), ("llama", {"tied": False}), ("gpt2", {}), ("mixtral", {"num_local_experts": 4})],
)
def test_slopes_are_the_finite_differences(
    tiny_model: Maker, tmp_path: Path, arch: str, options: dict[str, Any]
) -> None:
    pool = Pool(tiny_model, tmp_path, arch, **options)
    pool.model = load_model(pool.base, "cpu", dtype=torch.float64)
    if arch == "mixtral":
        # The grouped product knows no float64.
        pool.model.set_experts_implementation("eager")
    resident = pool.resident()
    at = {"ja": 0.3, "math": -0.2}
    resident.merge(at)
    with resident.slopes() as slopes:
        loss(pool.model).backward()

    def value(weights: dict[str, float]) -> float:
        resident.merge(weights)
        return loss(pool.model).item()

    for name in at:

        def difference(step: float, name: str = name) -> float:
            return (value(at | {name: at[name] + step}) - value(at | {name: at[name] - step})) / (2 * step)

        # Two steps cancel the curvature: smaller ones drown in the float32 of the files and of the norms.
        expected = (4 * difference(5e-3) - difference(1e-2)) / 3
        assert slopes[name] == pytest.approx(expected, rel=2e-3, abs=2e-5)


def test_slopes_add_up_over_batches_and_leave_the_model_as_it_was(pool: Pool) -> None:
    resident = pool.resident()
    first = next(pool.model.parameters())
    for parameter in pool.model.parameters():
        parameter.requires_grad_(parameter is first)
    first.grad = torch.ones_like(first)
    with resident.slopes() as slopes:
        assert slopes == {"ja": 0.0, "math": 0.0}
        loss(pool.model).backward()
        once = dict(slopes)
        assert all(parameter.grad is None for parameter in pool.model.parameters())
        loss(pool.model).backward()
    assert slopes == {name: pytest.approx(2 * slope) for name, slope in once.items()}
    assert all(slope != 0.0 for slope in once.values())
    assert [p.requires_grad for p in pool.model.parameters()] == [p is first for p in pool.model.parameters()]
    assert torch.equal(first.grad, torch.ones_like(first))
    loss(pool.model).backward()
    assert slopes == {name: pytest.approx(2 * slope) for name, slope in once.items()}


def test_a_model_that_does_not_fit_is_refused_with_the_sum(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "WORKING_BYTES", {"cpu": 0, "cuda": 0})
    size = (pool.base / "model.safetensors").stat().st_size
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: size - 1)
    with pytest.raises(InfrastructureError, match=r"base 0.0 GB \+ 2 vectors 0.0 GB mapped .* 0.0 GB are free"):
        check_memory(pool.base, pool.vectors, "cpu")
    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(memory, "available_memory_bytes", lambda: 100 * size)
        check_memory(pool.base, pool.vectors, "cpu")
        monkeypatch.setattr(memory, "available_memory_bytes", lambda: None)
        check_memory(pool.base, pool.vectors, "cpu")
        assert not caplog.records
        monkeypatch.setattr(memory, "available_memory_bytes", lambda: 2 * size)
        check_memory(pool.base, pool.vectors, "cpu")
    assert "reads from disk again" in caplog.text


def test_a_model_dispatched_over_a_device_map_is_merged_where_its_parts_lie(pool: Pool, tmp_path: Path) -> None:
    from accelerate import dispatch_model

    # One kind of device is all there is here: the hooks are those of several.
    dispatched = dispatch_model(pool.model, {"model": "cpu", "lm_head": "cpu"}, force_hooks=True)
    resident = ResidentMerge(dispatched, pool.base, pool.vectors)
    resident.merge(WEIGHTS[0])
    assert same(dispatched, pool.merged(WEIGHTS[0], tmp_path / "merged", "float32"))
    assert same(load_model(pool.base, "cpu", device_map={"": "cpu"}), load_model(pool.base, "cpu"))


def test_where_the_room_is_gone_before_the_copies_come_none_are_kept(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mergekit_optimer.resident import sources

    def sizes(_self: Any, tensors: Any) -> dict[str, int]:
        return dict.fromkeys((tensor.name for tensor in tensors), 1)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sources.Sources, "sizes", sizes)
    monkeypatch.setattr(sources.Sources, "hold", full)
    with caplog.at_level(logging.INFO):
        resident = pool.resident()
    assert resident.kept_bytes == 0
    assert "0.0 of the" in caplog.text
    resident.merge(WEIGHTS[0])


def test_what_torch_keeps_for_itself_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (10, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 60)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 15)
    assert memory._free_on(torch.device("cuda", 0)) == 55


def test_a_model_larger_than_one_gpu_is_spread_and_all_gpus_count(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (pool.base / "model.safetensors").stat().st_size
    monkeypatch.setattr(memory, "WORKING_BYTES", {"cpu": 0, "cuda": 0})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (size - 1, size))
    assert is_spread(pool.base, "cuda")
    assert not is_spread(pool.base, "cuda:0")
    # Two halves hold the model, its two vectors' tensors on their way do not fit beside it.
    with pytest.raises(InfrastructureError, match="does not fit into cuda: base"):
        check_memory(pool.base, pool.vectors, "cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (4 * size, 4 * size))
    assert not is_spread(pool.base, "cuda")
    check_memory(pool.base, pool.vectors, "cuda")


@pytest.mark.parametrize(
    ("line", "folder", "files", "left"),
    [
        ("0::/job", "job", {"memory.max": "3000000", "memory.current": "2000000", "memory.stat": ""}, 1_000_000),
        ("0::/", "", {"memory.max": "max", "memory.current": "2000000", "memory.stat": ""}, 8_192_000),
        ("0::/a/b", "a", {"memory.max": "30000", "memory.current": "5000", "memory.stat": "inactive_file 7"}, 25_007),
        (
            "4:cpu,memory:/job",
            "memory/job",
            {
                "memory.limit_in_bytes": "3000000",
                "memory.usage_in_bytes": "2500000",
                "memory.stat": "inactive_file 1\ntotal_inactive_file 100",
            },
            500_100,
        ),
    ],
)  # fmt: skip
def test_a_containers_limit_counts_where_it_is_lower(
    tmp_path: Path, line: str, folder: str, files: dict[str, str], left: int
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"1:name=systemd:/x\n{line}\n")
    group = tmp_path / "cgroup" / folder
    group.mkdir(parents=True)
    for name, text in files.items():
        (group / name).write_text(text)
    assert machine.available_memory_bytes(tmp_path / "proc", tmp_path / "cgroup") == left
    assert machine.available_memory_bytes(tmp_path / "nowhere", tmp_path / "cgroup") is None


def test_what_is_kept_beside_the_model_changes_no_bit_and_can_be_let_go(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = pool.resident()
    assert resident.kept_bytes == 0
    assert not resident.let_go()

    def copied(tensor: torch.Tensor, _device: torch.device) -> torch.Tensor:
        return tensor.clone()

    # As to another device: a CPU would be given the mapped tensors themselves.
    monkeypatch.setattr(resident._sources, "_to", copied)
    whole = sum(parameter.nbytes for parameter in pool.model.parameters())
    # Two vectors, one of them in half the base's bytes: not all of it.
    for room, kept_all in ((whole, False), (3 * whole, True)):
        resident._sources.hold(resident._tensors, {torch.device("cpu"): room})
        assert 0 < resident.kept_bytes <= room
        assert (resident.kept_bytes == 2.5 * whole) is kept_all
        resident.merge(WEIGHTS[0])
        assert same(pool.model, pool.merged(WEIGHTS[0], tmp_path / str(room), "float32"))
        # The copies are what is merged.
        held = resident._sources._held["model.norm.weight"]
        held.base.add_(1.0)
        resident.merge(WEIGHTS[0])
        assert not same(pool.model, load_model(tmp_path / str(room), "cpu"))
        assert resident.let_go()
        assert resident.kept_bytes == 0
        resident.merge(dict.fromkeys(pool.vectors, 0.0))


def test_the_room_on_a_gpu_is_what_scoring_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [torch.device("cuda", 0), torch.device("cuda", 1)]
    free = {gpus[0]: 40 << 30, gpus[1]: 8 << 30}
    monkeypatch.setattr(memory, "_free_on", lambda device: free[device])
    rooms = memory.rooms_on_gpus([*gpus, torch.device("cpu")], 1 << 30)
    assert rooms == {gpus[0]: (40 - 8 - 4 - 1) << 30, gpus[1]: 0}
