"""Distribution vectors: the right difference, and every wrong input refused with a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer
from safetensors.torch import load_file, save_file

from mergekit_optimer.errors import RunFolderError, VectorError
from mergekit_optimer.vectors import (
    RECORD,
    Provenance,
    TensorFolder,
    cosines,
    extract_vector,
    load_pool,
    load_vector,
    model_fingerprint,
    module_kind,
    stream,
)

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def checkpoint_dir(tiny_model: Maker) -> Path:
    return tiny_model("cpt", seed=1)


@pytest.fixture
def vector_dir(checkpoint_dir: Path, base_dir: Path, tmp_path: Path) -> Path:
    extract_vector("ja", checkpoint_dir, base_dir, tmp_path / "ja", "org/base@abc")
    return tmp_path / "ja"


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_vector_is_the_checkpoint_minus_the_base(vector_dir: Path, checkpoint_dir: Path, base_dir: Path) -> None:
    base, checkpoint = TensorFolder(base_dir), TensorFolder(checkpoint_dir)
    tau = TensorFolder(vector_dir)
    assert tau.names == base.names
    for name, tensor in tau.items():
        assert torch.equal(tensor, checkpoint.get(name) - base.get(name))


def test_the_record_holds_norm_hashes_and_what_survives_storage(vector_dir: Path) -> None:
    record = load_vector(vector_dir)
    squares = sum(float((t.double() ** 2).sum()) for _, t in TensorFolder(vector_dir).items())
    assert record.norm == pytest.approx(squares**0.5, rel=1e-9)
    assert record.norm**2 == pytest.approx(sum(norm**2 for norm in record.norms.values()), rel=1e-9)
    assert record.applied_fraction["float32"]["total"] == pytest.approx(1.0, abs=1e-6)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(record.files)
    assert record.base_label == "org/base@abc"


def test_a_small_vector_is_reported_lost_in_bfloat16(base_dir: Path, tmp_path: Path) -> None:
    nearly = copy_of(base_dir, tmp_path / "nearly")
    torch.manual_seed(0)

    def nudge(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.add_(tensor * 1e-3 * torch.randn_like(tensor))

    change_tensors(nearly, nudge)
    record = extract_vector("small", nearly, base_dir, tmp_path / "small", "base")
    assert record.applied_fraction["bfloat16"]["total"] < 0.9
    assert record.applied_fraction["float32"]["total"] > 0.999


def test_a_bfloat16_delta_keeps_its_precision_relative_to_itself(
    checkpoint_dir: Path, base_dir: Path, tmp_path: Path
) -> None:
    extract_vector("ja", checkpoint_dir, base_dir, tmp_path / "ja", "base", dtype="bfloat16")
    exact = TensorFolder(checkpoint_dir).get("model.norm.weight") - TensorFolder(base_dir).get("model.norm.weight")
    stored = TensorFolder(tmp_path / "ja")
    assert stored.get("model.norm.weight").dtype == torch.bfloat16
    assert torch.allclose(stored.get("model.norm.weight").float(), exact, rtol=2**-8)


def test_shards_hold_the_same_vector_as_one_file(
    checkpoint_dir: Path, base_dir: Path, vector_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SHARD_BYTES", 20_000)
    extract_vector("ja", checkpoint_dir, base_dir, tmp_path / "sharded", "base")
    assert len(list((tmp_path / "sharded").glob("model-*-of-*.safetensors"))) > 2
    assert model_fingerprint(tmp_path / "sharded") == model_fingerprint(vector_dir)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_streamed_file_has_the_bytes_of_the_library(tmp_path: Path, dtype: torch.dtype) -> None:
    shapes = {"b.weight": (3, 5), "a.bias": (7,), "重み": ()}
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "library.safetensors", {"format": "pt"})
    stream.write_tensors(iter(sorted(tensors.items())), shapes, str(dtype).removeprefix("torch."), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "library.safetensors").read_bytes()


EXTRACT = """
import sys, threading
from pathlib import Path
from mergekit_optimer.vectors import extract_vector

def anonymous_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def watch():
    while not done.wait(0.001):
        seen.append(anonymous_kb())

cpt, base, warm, out = map(Path, sys.argv[1:])
extract_vector("warm", cpt.with_name("small-cpt"), cpt.with_name("small-base"), warm, "base")
done, seen = threading.Event(), [anonymous_kb()]
watcher = threading.Thread(target=watch)
watcher.start()
extract_vector("big", cpt, base, out, "base")
done.set()
watcher.join()
print(max(seen) - seen[0])
"""


def test_extraction_holds_tensors_not_models(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 24, "head_dim": 64}
    for seed, name in enumerate(("base", "cpt")):
        make_model(tmp_path / f"small-{name}", seed=seed)
        make_model(tmp_path / name, seed=seed, **sizes)
    model_kb = (tmp_path / "base/model.safetensors").stat().st_size // 1024
    words = [str(tmp_path / name) for name in ("cpt", "base", "warm", "out")]
    run = subprocess.run([sys.executable, "-c", EXTRACT, *words], capture_output=True, text=True, check=True)
    assert model_kb > 80_000
    # The largest tensor has 1 MiB; a second load of the tokenizers and float64 sums take their part, a delta held would
    # take all of a model.
    assert int(run.stdout) < model_kb // 2


def test_a_sharded_checkpoint_gives_the_same_vector(
    checkpoint_dir: Path, base_dir: Path, vector_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    sharded = copy_of(checkpoint_dir, tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(checkpoint_dir).save_pretrained(sharded, max_shard_size="40KB")
    assert (sharded / "model.safetensors.index.json").exists()
    extract_vector("ja", sharded, base_dir, tmp_path / "ja2", "base")
    assert model_fingerprint(tmp_path / "ja2") == model_fingerprint(vector_dir)


def test_a_tied_output_layer_stored_twice_counts_once(checkpoint_dir: Path, base_dir: Path, tmp_path: Path) -> None:
    twice = copy_of(checkpoint_dir, tmp_path / "twice")
    change_tensors(twice, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    extract_vector("ja", twice, base_dir, tmp_path / "ja", "base")
    assert "lm_head.weight" not in TensorFolder(tmp_path / "ja")


def test_a_pool_is_checked_and_its_cosines_are_right(base_dir: Path, tiny_model: Maker, tmp_path: Path) -> None:
    folders = {}
    for name, seed in (("b", 3), ("a", 2)):
        extract_vector(name, tiny_model(name, seed=seed), base_dir, tmp_path / name, "base")
        folders[name] = tmp_path / name
    pool = load_pool(base_dir, folders)
    assert pool.names == ["a", "b"]
    flat = [torch.cat([t.double().reshape(-1) for _, t in TensorFolder(folders[n]).items()]) for n in ("a", "b")]
    expected = float(torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0))
    found = cosines(pool)
    assert found["total"]["a"]["b"] == pytest.approx(expected, abs=1e-9)
    assert found["total"]["a"]["a"] == pytest.approx(1.0)
    assert found["norms"]["a"]["b"] == pytest.approx(found["norms"]["b"]["a"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.embed_tokens.weight", "embeddings"),
        ("lm_head.weight", "embeddings"),
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.self_attn.q_norm.weight", "norms"),
        ("model.layers.0.post_attention_layernorm.weight", "norms"),
        ("model.layers.0.mlp.up_proj.weight", "mlp"),
        ("transformer.h.0.ln_1.weight", "norms"),
        ("transformer.h.0.attn.c_attn.bias", "attention"),
    ],
)
def test_tensors_are_sorted_by_module_kind(name: str, kind: str) -> None:
    assert module_kind(name) == kind


def test_a_vector_of_another_base_is_refused(vector_dir: Path, tiny_model: Maker) -> None:
    other = tiny_model("other", seed=9)
    with pytest.raises(VectorError, match=r"'ja' was made from org/base@abc .* but the base model here is other"):
        load_pool(other, {"ja": vector_dir})
    assert load_pool(other, {"ja": vector_dir}, frozenset({"ja"})).names == ["ja"]


def test_another_tokenizer_of_the_same_size_is_refused(checkpoint_dir: Path, base_dir: Path, tmp_path: Path) -> None:
    other = copy_of(checkpoint_dir, tmp_path / "other")
    data = json.loads((other / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(VectorError, match="another tokenizer"):
        extract_vector("ja", other, base_dir, tmp_path / "ja", "base")
    assert not (tmp_path / "ja").exists()


def test_another_shape_is_refused(tiny_model: Maker, base_dir: Path, tmp_path: Path) -> None:
    wide = tiny_model("wide", intermediate_size=64)
    with pytest.raises(VectorError, match=r"mlp.down_proj.weight of shape \(32, 64\), its base has \(32, 48\)"):
        extract_vector("wide", wide, base_dir, tmp_path / "wide-dv", "base")


def test_a_missing_tensor_is_refused(checkpoint_dir: Path, base_dir: Path, tmp_path: Path) -> None:
    short = copy_of(checkpoint_dir, tmp_path / "short")
    change_tensors(short, lambda t: t.pop("model.norm.weight"))
    with pytest.raises(VectorError, match=r"lacks model.norm.weight"):
        extract_vector("ja", short, base_dir, tmp_path / "ja", "base")


def test_a_tensor_too_many_is_refused(checkpoint_dir: Path, base_dir: Path, tmp_path: Path) -> None:
    long = copy_of(checkpoint_dir, tmp_path / "long")
    change_tensors(long, lambda t: t.update({"model.extra.weight": torch.zeros(2)}))
    with pytest.raises(VectorError, match=r"has model.extra.weight, which its base has not"):
        extract_vector("ja", long, base_dir, tmp_path / "ja", "base")


def test_a_truncated_file_is_refused(checkpoint_dir: Path, base_dir: Path, tmp_path: Path) -> None:
    torn = copy_of(checkpoint_dir, tmp_path / "torn")
    content = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(VectorError, match="truncated"):
        extract_vector("ja", torn, base_dir, tmp_path / "ja", "base")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_are_refused(checkpoint_dir: Path, base_dir: Path, tmp_path: Path, bad: float) -> None:
    broken = copy_of(checkpoint_dir, tmp_path / "broken")
    change_tensors(broken, lambda t: t["model.norm.weight"].__setitem__(3, bad))
    with pytest.raises(VectorError, match=r"NaN or Inf in model.norm.weight"):
        extract_vector("ja", broken, base_dir, tmp_path / "ja", "base")
    assert not (tmp_path / "ja").exists()


def test_a_changed_vector_file_is_noticed(vector_dir: Path, base_dir: Path) -> None:
    change_tensors(vector_dir, lambda t: t["model.norm.weight"].add_(1.0))
    with pytest.raises(VectorError, match="sha256 differs"):
        load_pool(base_dir, {"ja": vector_dir})


def test_an_existing_folder_is_left_alone(checkpoint_dir: Path, base_dir: Path, vector_dir: Path) -> None:
    before = (vector_dir / "distribution_vector.json").read_text()
    with pytest.raises(RunFolderError, match="exists"):
        extract_vector("ja", checkpoint_dir, base_dir, vector_dir, "base")
    assert (vector_dir / "distribution_vector.json").read_text() == before


def test_pickled_weights_are_refused(base_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(base_dir, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(VectorError, match=r"only pickled weights.*or set allow_pickle: true where the recipe names it"):
        TensorFolder(folder)


def test_an_index_cannot_lead_out_of_its_folder(base_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(base_dir, tmp_path / "sly")
    index = {"weight_map": {"model.norm.weight": "../base/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(VectorError, match="points outside its folder"):
        TensorFolder(folder)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (b"{", "is no index of safetensors files"),
        (b"\xff", "is no index of safetensors files"),
        (b"[]", "is no index of safetensors files"),
        (b'{"metadata": {}}', "is no index of safetensors files"),
        (b'{"weight_map": ["a"]}', "is no index of safetensors files"),
        (b'{"weight_map": {"a": 1}}', "is no index of safetensors files"),
        (b'{"weight_map": {}}', "is no index of safetensors files"),
        (b'{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors is missing"),
        (b'{"weight_map": {"a": "folder"}}', "folder cannot be read"),
        (b'{"weight_map": {"a": ".."}}', "points outside its folder"),
        (b'{"weight_map": {"a": ""}}', "points outside its folder"),
    ],
    ids=range(11),
)
def test_a_broken_index_is_refused_in_a_sentence(base_dir: Path, tmp_path: Path, index: bytes, words: str) -> None:
    folder = copy_of(base_dir, tmp_path / "broken")
    (folder / "folder").mkdir()
    (folder / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(VectorError, match=words) as caught:
        TensorFolder(folder)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_no_folder_of_tensors_is_named(base_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(VectorError, match=r"model\.safetensors is no folder"):
        TensorFolder(base_dir / "model.safetensors")
    with pytest.raises(VectorError, match=r"gone is no folder"):
        TensorFolder(tmp_path / "gone")
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(VectorError, match=r"model\.safetensors cannot be read"):
        TensorFolder(tmp_path)
    (tmp_path / "index" / "model.safetensors.index.json").mkdir(parents=True)
    with pytest.raises(VectorError, match=r"index\.json cannot be read"):
        TensorFolder(tmp_path / "index")


def test_a_newer_format_is_refused(vector_dir: Path, base_dir: Path) -> None:
    path = vector_dir / "distribution_vector.json"
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(VectorError, match=r"has format 3; this version reads 1 to 2\. Update mergekit-optimer\."):
        load_pool(base_dir, {"ja": vector_dir})


def test_a_checkpoint_with_other_special_tokens_has_the_same_rows_and_is_subtracted(
    base_dir: Path, tmp_path: Path
) -> None:
    other = copy_of(base_dir, tmp_path / "no-eos")
    make_tokenizer(other, eos=False)
    assert extract_vector("ja", other, base_dir, tmp_path / "ja", "base").norm == 0.0


def edit_record(folder: Path, **changes: object) -> None:
    path = folder / "distribution_vector.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_record_says_where_its_parts_can_be_had(checkpoint_dir: Path, base_dir: Path, tmp_path: Path) -> None:
    known = Provenance("org/base", "0a" * 20, "org/text@1b", "org/text", "1b" * 20, "org/cpt@2c")
    extract_vector("ja", checkpoint_dir, base_dir, tmp_path / "ja", "org/base@0a", provenance=known)
    record = load_vector(tmp_path / "ja")
    assert (record.base_repo, record.base_revision) == ("org/base", "0a" * 20)
    assert (record.dataset, record.dataset_repo, record.dataset_revision) == ("org/text@1b", "org/text", "1b" * 20)
    assert record.source == "org/cpt@2c"


def test_a_record_of_the_first_format_is_read(vector_dir: Path, base_dir: Path) -> None:
    path = vector_dir / "distribution_vector.json"
    new = ("base_repo", "base_revision", "dataset", "dataset_repo", "dataset_revision", "source")
    data = {key: value for key, value in json.loads(path.read_text()).items() if key not in new}
    path.write_text(json.dumps(data | {"format_version": 1}))
    record = load_pool(base_dir, {"ja": vector_dir}).vectors["ja"]
    assert {getattr(record, key) for key in new} == {None}
    assert record.base_label == "org/base@abc"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra": 1}, "unknown key 'extra'"),
        ({"format_version": 1}, "unknown key 'base_repo'"),
        ({"format_version": True}, "has format True"),
        ({"format_version": None}, "has format None"),
        ({"name": "../../x"}, "'../../x' is no name"),
        ({"name": 7}, "name is no text of one line"),
        ({"base_label": "a\nb"}, "base_label is no text of one line"),
        ({"dataset_repo": ["x"]}, "dataset_repo is no text of one line"),
        ({"norm": float("nan")}, "norm is no finite number"),
        ({"norm": "1"}, "norm is no finite number"),
        ({"norm": 10**400}, "norm is no finite number"),
        ({"base_norm": -1.0}, "base_norm is no finite number"),
        ({"norms": [1.0]}, "norms holds no finite numbers"),
        ({"applied_fraction": {}}, "applied_fraction lacks a dtype"),
        ({"applied_fraction": {key: {} for key in ("bfloat16", "float16", "float32")}}, "applied_fraction holds no"),
        ({"files": ["model.safetensors"]}, "files is no list of names and hashes"),
        ({"training": "long"}, "training is no record"),
        ({"training": {"n_steps": "<b>"}}, "training.n_steps is no finite number"),
    ],
    ids=str,
)
def test_a_record_that_holds_what_no_record_holds_is_refused(
    vector_dir: Path, changes: dict[str, object], words: str
) -> None:
    edit_record(vector_dir, **changes)
    with pytest.raises(VectorError) as caught:
        load_vector(vector_dir)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "7", "null"])
def test_a_record_that_is_no_mapping_is_refused(vector_dir: Path, content: str) -> None:
    (vector_dir / "distribution_vector.json").write_text(content)
    with pytest.raises(VectorError, match="has format None"):
        load_vector(vector_dir)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"norm": ' + "9" * 5000 + "}"], ids=["deep", "long"])
def test_a_record_that_no_parser_takes_is_refused(vector_dir: Path, content: str) -> None:
    (vector_dir / "distribution_vector.json").write_text(content)
    # A library that lifts the limit on digits leaves a record without a format.
    with pytest.raises(VectorError, match=r"is damaged; extract or pull the vector again|has format None"):
        load_vector(vector_dir)


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "a\0b", "..", ".", "", "C:x", "a\\b", "sub/model.safetensors", "x" * 300]
)
def test_a_file_name_that_leads_elsewhere_is_refused(vector_dir: Path, base_dir: Path, name: str) -> None:
    edit_record(vector_dir, files=json.loads((vector_dir / RECORD).read_text())["files"] | {name: "0" * 64})
    with pytest.raises(VectorError, match="lacks its file"):
        load_pool(base_dir, {"ja": vector_dir})


@pytest.mark.parametrize("name", ["model.safetensors", "distribution_vector.json", "config.json"])
def test_a_file_that_is_a_link_out_of_the_folder_is_not_read(
    vector_dir: Path, base_dir: Path, tmp_path: Path, name: str
) -> None:
    (vector_dir / name).rename(tmp_path / "elsewhere")
    (vector_dir / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VectorError, match=r"leads out of its folder \(to .*elsewhere\); do not use it"):
        load_pool(base_dir, {"ja": vector_dir})


def test_links_of_the_hubs_cache_to_its_blobs_are_read(vector_dir: Path, base_dir: Path, tmp_path: Path) -> None:
    repo = tmp_path / "models--org--dv"
    snapshot = repo / "snapshots" / ("0a" * 20)
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for number, file in enumerate(sorted(vector_dir.iterdir())):
        file.rename(repo / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert load_pool(base_dir, {"ja": snapshot}).names == ["ja"]


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json"])
def test_weights_that_the_record_does_not_name_are_refused(vector_dir: Path, base_dir: Path, name: str) -> None:
    (vector_dir / name).write_text("{}")
    with pytest.raises(VectorError, match=f"{name} is not in the vector's record"):
        load_pool(base_dir, {"ja": vector_dir})
