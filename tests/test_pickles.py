"""Weights that are there as pickle only: refused, or read as tensors and nothing else where the recipe says so."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from loopback_client import Client
from loopback_hub import LoopbackHub
from safetensors.torch import load_file

from mergekit_optimer.errors import DiskError, HubError
from mergekit_optimer.hub import ADAPTER_FILES, Located, locate
from mergekit_optimer.hub.pickles import without_pickles
from mergekit_optimer.recipe import ModelSource, Recipe
from mergekit_optimer.vectors import TensorFolder, model_fingerprint

pytest_plugins = ["loopback_fixtures"]

Maker = Callable[..., Path]
KEPT = ("*.json", "*.safetensors")


def pickled(model_dir: Path, target: Path, **extra: torch.Tensor) -> Path:
    """A copy of a model folder with its weights as one pickle."""
    shutil.copytree(model_dir, target)
    torch.save(load_file(target / "model.safetensors") | extra, target / "pytorch_model.bin")
    (target / "model.safetensors").unlink()
    return target


def found(folder: Path, *, allow: bool = True) -> Located:
    recipe = Recipe.model_construct(folder=folder.parent)
    return locate(ModelSource(path=folder.name, allow_pickle=allow), recipe, "model")


def test_a_pickled_model_is_the_same_model_as_safetensors(base_dir: Path, tmp_path: Path) -> None:
    place = found(pickled(base_dir, tmp_path / "old"))
    assert place.path != tmp_path / "old"
    assert model_fingerprint(place.path) == model_fingerprint(base_dir)
    assert {"config.json", "tokenizer.json"} <= {path.name for path in place.path.iterdir()}
    assert not list(place.path.glob("*.bin"))
    assert place.label == "old"


def test_without_the_key_the_folder_stays_and_is_refused(base_dir: Path, tmp_path: Path) -> None:
    place = found(pickled(base_dir, tmp_path / "old"), allow=False)
    assert place == Located(tmp_path / "old")


def test_a_folder_with_safetensors_is_taken_as_it_is(base_dir: Path) -> None:
    assert found(base_dir) == Located(base_dir)


def test_a_model_is_converted_once(base_dir: Path, tmp_path: Path) -> None:
    old = pickled(base_dir, tmp_path / "old")
    first = found(old).path
    before = (first / "model.safetensors").stat().st_mtime_ns
    shutil.copytree(old, tmp_path / "copy")
    assert found(tmp_path / "copy").path == first
    assert (first / "model.safetensors").stat().st_mtime_ns == before


def test_a_changed_pickle_is_another_model(base_dir: Path, tiny_model: Maker, tmp_path: Path) -> None:
    first = found(pickled(base_dir, tmp_path / "old")).path
    shutil.rmtree(tmp_path / "old")
    second = found(pickled(tiny_model("other", seed=5), tmp_path / "old")).path
    assert model_fingerprint(first) != model_fingerprint(second)


def test_half_of_a_converted_folder_is_made_again(base_dir: Path, tmp_path: Path) -> None:
    old = pickled(base_dir, tmp_path / "old")
    place = found(old).path
    content = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(content[:100])
    assert (found(old).path / "model.safetensors").read_bytes() == content


def test_a_tied_output_layer_is_left_out(tmp_path: Path, base_dir: Path) -> None:
    old = pickled(base_dir, tmp_path / "old")
    state = torch.load(old / "pytorch_model.bin")
    torch.save(state | {"lm_head.weight": state["model.embed_tokens.weight"]}, old / "pytorch_model.bin")
    assert model_fingerprint(found(old).path) == model_fingerprint(base_dir)


def test_shards_become_shards_with_an_index(base_dir: Path, tmp_path: Path) -> None:
    old = pickled(base_dir, tmp_path / "old")
    state = torch.load(old / "pytorch_model.bin")
    (old / "pytorch_model.bin").unlink()
    names = sorted(state)
    weight_map = {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: state[name] for name in part}, old / file)
        weight_map |= dict.fromkeys(part, file)
    (old / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    place = found(old).path
    assert model_fingerprint(place) == model_fingerprint(base_dir)
    assert [file.name for file in TensorFolder(place).files] == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    ]  # fmt: skip
    (old / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(HubError, match=r"old lacks pytorch_model-00002-of-00002\.bin, which its index names"):
        found(old)


def test_tensors_that_share_memory_are_each_there(base_dir: Path, tmp_path: Path) -> None:
    old = pickled(base_dir, tmp_path / "old")
    whole = torch.arange(12.0)
    torch.save({"a": whole[:6], "b": whole[3:], "c": whole.reshape(3, 4).t()}, old / "pytorch_model.bin")
    tensors = load_file(found(old).path / "model.safetensors")
    assert tensors["b"].tolist() == list(range(3, 12))
    assert tensors["c"].tolist() == whole.reshape(3, 4).t().tolist()


class Touch:
    """A pickle that would make a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(
    base_dir: Path, tmp_path: Path, save: Callable[[object, Path], object]
) -> None:
    old = pickled(base_dir, tmp_path / "old")
    save({"a": torch.zeros(2), "b": Touch(tmp_path / "ran")}, old / "pytorch_model.bin")
    with pytest.raises(HubError, match=r"pytorch_model\.bin of old holds more than tensors, which could run code"):
        found(old)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x80\x02garbage", b"text"], ids=str)
def test_a_damaged_pickle_is_refused_in_a_sentence(base_dir: Path, tmp_path: Path, content: bytes) -> None:
    old = pickled(base_dir, tmp_path / "old")
    (old / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(HubError, match=r"pytorch_model\.bin of old ") as caught:
        found(old)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", [[torch.zeros(2)], {}, {"a": 1}, {"state_dict": {"a": torch.zeros(1)}}], ids=str)
def test_a_pickle_of_something_else_is_refused(base_dir: Path, tmp_path: Path, state: object) -> None:
    old = pickled(base_dir, tmp_path / "old")
    torch.save(state, old / "pytorch_model.bin")
    with pytest.raises(HubError, match="is no mapping of names to tensors"):
        found(old)


def test_a_pickled_adapter_is_converted_too(tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/adapter_config.json").write_text("{}")
    torch.save({"a": torch.ones(2)}, tmp_path / "lora/adapter_model.bin")
    source = ModelSource(path="lora", allow_pickle=True)
    place = locate(source, Recipe.model_construct(folder=tmp_path), "model", files=ADAPTER_FILES)
    assert load_file(place.path / "adapter_model.safetensors")["a"].tolist() == [1.0, 1.0]
    assert (place.path / "adapter_config.json").exists()


def test_a_cache_that_cannot_be_written_is_told(base_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DiskError, match=r"cannot be written .* or set XDG_CACHE_HOME"):
        without_pickles(pickled(base_dir, tmp_path / "old"), "old", KEPT, tmp_path / "cache")


def test_only_the_weights_of_a_pickled_repository_are_fetched_and_converted(
    hub: LoopbackHub, client: Client, base_dir: Path, tmp_path: Path
) -> None:
    old = pickled(base_dir, tmp_path / "old")
    files = {path.name: path.read_bytes() for path in old.iterdir()} | {"training_args.bin": b"x", "optimizer.pt": b"x"}
    repo = hub.state.add_repo("org/old", files)
    call = {"do": "pull", "repo": "org/old", "revision": repo.head, "home": tmp_path / "home"}
    assert "set allow_pickle: true beside it" in client.call(**call)["error"]
    answer = client.call(**call, allow_pickle=True)
    assert answer["label"] == f"org/old@{repo.head}"
    assert model_fingerprint(Path(answer["path"])) == model_fingerprint(base_dir)
    asked = [request.path for request in hub.state.requests]
    assert not any("training_args.bin" in path or "optimizer.pt" in path for path in asked)
    hub.state.requests.clear()
    assert client.call(**call, allow_pickle=True)["path"] == answer["path"]
    assert hub.state.requests == []


def test_pickles_beside_safetensors_are_not_fetched(
    hub: LoopbackHub, client: Client, base_dir: Path, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in base_dir.iterdir()} | {"pytorch_model.bin": b"x"}
    hub.state.add_repo("org/both", files)
    answer = client.call(do="pull", repo="org/both", home=tmp_path, allow_pickle=True)
    assert sorted(path.name for path in Path(answer["path"]).iterdir()) == sorted(set(files) - {"pytorch_model.bin"})
