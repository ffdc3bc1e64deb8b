"""A pool of what others made: a checkpoint, an adapter; checked before any work, made once, linked into each run."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_adapters import ATTENTION, make_adapter

from mergekit_optimer import pipeline
from mergekit_optimer.errors import VectorError
from mergekit_optimer.pipeline import Job, make_missing_vectors, make_vectors, pull_recipe
from mergekit_optimer.pipeline.vector_sources import check_vector_sources
from mergekit_optimer.recipe import load_recipe
from mergekit_optimer.runs import open_run
from mergekit_optimer.vectors import RECORD, TensorFolder, load_vector

Maker = Callable[..., Path]


@pytest.fixture
def study(tmp_path: Path, base_dir: Path, tiny_model: Maker, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base, a checkpoint, an adapter and a base of its own for it, and a user's cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(base_dir, tmp_path / "base")
    shutil.copytree(tiny_model("cpt", seed=1), tmp_path / "cpt")
    shutil.copytree(tiny_model("own", seed=2), tmp_path / "own")
    make_adapter(base_dir, tmp_path / "lora", target_modules=ATTENTION)
    make_adapter(tmp_path / "own", tmp_path / "own-lora", target_modules=ATTENTION)
    for part in ("dev", "held_out"):
        (tmp_path / f"{part}.jsonl").write_text(f'{{"text": "a text of {part}"}}\n' * 3)
    return tmp_path


def open_job(study: Path, run: str, train: dict[str, Any] | None = None, **vectors: Any) -> Job:
    recipe: dict[str, Any] = ({"train": train} if train else {}) | {
        "name": "others",
        "base_model": {"path": "base"},
        "vectors": vectors or {"ja": {"checkpoint": {"path": "cpt"}}, "it": {"adapter": {"path": "lora"}}},
        "search": {"n_trials": 4, "warm_starts": ["zero", "singles"], "rungs": [{"n_samples": 2}],
                   "objective": {"mean": ["en"]}},
        "tasks": {"en": {"kind": "text", "path": "dev.jsonl", "max_tokens": 32}},
        "held_out": {"en": {"kind": "text", "path": "held_out.jsonl", "max_tokens": 32}},
    }  # fmt: skip
    path = study / f"{run}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(path)
    return Job(loaded, open_run(study / run, loaded), "cpu")


def kept(study: Path) -> list[Path]:
    return sorted((study / "cache/mergekit-optimer/vectors").iterdir())


def inodes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in folder.iterdir() if file.name != RECORD}


def test_a_checkpoint_and_an_adapter_are_a_pool(study: Path) -> None:
    job = open_job(study, "one")
    check_vector_sources(job)
    make_vectors(job)
    assert job.pool.names == ["it", "ja"]
    assert job.ingredients["it"].checkpoint is None
    assert (job.pool.vectors["ja"].source, job.pool.vectors["it"].source) == ("cpt", "lora")
    assert job.source("it").path == study / "lora"
    assert job.labels[str(study / "lora")] == "lora"


def test_a_second_run_makes_none_of_them_and_holds_no_second_copy(
    study: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_job(study, "one")
    make_vectors(first)
    for name in ("extract_vector", "extract_adapter"):
        monkeypatch.setattr(pipeline.vector_sources, name, lambda *_: pytest.fail("made again"))
    caplog.set_level(logging.INFO)
    # Under other names, and from another place.
    shutil.copytree(study / "cpt", study / "elsewhere")
    second = open_job(study, "two", de={"checkpoint": {"path": "elsewhere"}}, it={"adapter": {"path": "lora"}})
    make_vectors(second)
    assert inodes(second.vector("de").path) == inodes(first.vector("ja").path)
    assert inodes(second.vector("it").path) == inodes(first.vector("it").path)
    assert (second.pool.vectors["de"].name, second.pool.vectors["de"].source) == ("de", "elsewhere")
    assert (load_vector(first.vector("ja").path).name, len(kept(study))) == ("ja", 2)
    assert "vector de: made before, linked from" in caplog.text
    make_vectors(second)
    assert "vectors/de: done before, nothing changed" in caplog.text


# A dataset that is not trained yet, beside a checkpoint.
HALF: dict[str, Any] = {
    "train": {"datasets": {"ja": {"path": "dev.jsonl"}}},
    "ja": {"dataset": "ja"},
    "ck": {"checkpoint": {"path": "cpt"}},
}


def test_what_is_missing_is_made_but_not_what_is_to_be_trained(study: Path) -> None:
    job = open_job(study, "one", **HALF)
    make_missing_vectors(job)
    assert [path.name for path in (job.run.root / "vectors").iterdir()] == ["ck"]
    with pytest.raises(
        VectorError,
        match=r"Vector 'ja' is not made yet; run `mergekit-optimer train .*--run-dir .*` and `mergekit-optimer vectors",
    ):
        _ = job.pool
    shutil.copytree(study / "cpt", job.run.checkpoint_dir("ja"))
    make_missing_vectors(job)
    assert job.pool.names == ["ck", "ja"]


def test_where_no_vector_is_missing_nothing_is_read_or_said(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_missing_vectors(open_job(study, "one"))
    for folder in ("base", "cpt", "lora"):
        shutil.rmtree(study / folder)
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    make_missing_vectors(open_job(study, "one"))
    assert caplog.text == ""


def test_a_pulled_recipe_has_the_vectors_that_are_not_to_be_trained(study: Path) -> None:
    job = open_job(study, "one", **HALF | {"it": {"adapter": {"path": "own-lora"}, "base": {"path": "own"}}})
    places = pull_recipe(job)
    vectors = job.run.root / "vectors"
    assert {name: (place.path, place.label) for name, place in places.items()} == {
        "base": (study / "base", "base"),
        "bases/it": (study / "own", "own"),
        "vectors/ck": (vectors / "ck", "cpt"),
        "vectors/it": (vectors / "it", "own-lora"),
    }


def test_another_dtype_is_another_vector(study: Path) -> None:
    make_vectors(open_job(study, "one", ja={"checkpoint": {"path": "cpt"}}))
    job = open_job(study, "two", ja={"checkpoint": {"path": "cpt"}, "dtype": "bfloat16"})
    make_vectors(job)
    assert job.pool.vectors["ja"].dtype == "bfloat16"
    assert len(kept(study)) == 2


@pytest.mark.parametrize("damage", ["model.safetensors", "config.json", RECORD])
def test_a_damaged_entry_of_the_cache_is_made_again(study: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    vectors = {"ja": {"checkpoint": {"path": "cpt"}}}
    first = open_job(study, "one", **vectors)
    make_vectors(first)
    wanted = (first.vector("ja").path / "model.safetensors").read_bytes()
    (entry,) = kept(study)
    (entry / damage).unlink()
    (entry / damage).write_bytes(b"damaged")
    second = open_job(study, "two", **vectors)
    make_vectors(second)
    assert (second.vector("ja").path / "model.safetensors").read_bytes() == wanted
    assert "a kept vector is damaged and made again" in caplog.text
    assert kept(study) == [entry]
    assert (entry / damage).read_bytes() != b"damaged"


def test_a_cache_that_cannot_be_written_is_gone_without(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    (study / "cache").write_text("no folder")
    job = open_job(study, "one", ja={"checkpoint": {"path": "cpt"}})
    make_vectors(job)
    assert job.pool.names == ["ja"]
    assert "vector ja cannot be kept for other runs" in caplog.text


def test_an_adapter_over_a_base_of_its_own_is_subtracted_from_that(study: Path) -> None:
    own = {"adapter": {"path": "own-lora"}, "base": {"path": "own"}}
    job = open_job(study, "one", it=own)
    check_vector_sources(job)
    make_vectors(job)
    tau = TensorFolder(job.vector("it").path)
    assert job.pool.vectors["it"].base_label == "own"
    assert not tau.get("model.layers.0.mlp.up_proj.weight").any()
    assert tau.get("model.layers.0.self_attn.q_proj.weight").any()


def test_an_adapter_of_another_model_is_refused_before_any_work(study: Path, tiny_model: Maker) -> None:
    make_adapter(tiny_model("wide", hidden_size=64), study / "wide-lora", target_modules=ATTENTION)
    job = open_job(study, "one", it={"adapter": {"path": "wide-lora"}})
    with pytest.raises(VectorError, match=r"Adapter 'it' has .* of shape \(4, 64\), base needs \(4, 32\)"):
        check_vector_sources(job)


def test_an_adapter_whose_own_base_is_no_twin_of_the_base_is_refused(study: Path, tiny_model: Maker) -> None:
    wide = tiny_model("wide", hidden_size=64)
    make_adapter(wide, study / "wide-lora", target_modules=ATTENTION)
    shutil.copytree(wide, study / "wide")
    job = open_job(study, "one", it={"adapter": {"path": "wide-lora"}, "base": {"path": "wide"}})
    with pytest.raises(VectorError, match="its base has"):
        check_vector_sources(job)


def test_a_pool_of_others_is_searched_to_a_merged_model_that_plain_mergekit_can_make(study: Path) -> None:
    job = open_job(study, "one")
    report = pipeline.run_all(job)
    assert {vector.name for vector in report.vectors} == {"it", "ja"}
    twin = yaml.safe_load((job.run.best_dir / "merge.portable.yaml").read_text())
    assert twin["merge_method"] == "linear"
    assert str(job.vector("it").path) in {model["model"] for model in twin["models"]}
    assert os.fspath(study) not in job.run.card_path.read_text()
