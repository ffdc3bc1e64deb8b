"""Training: a plain float32 checkpoint, no token lost, and the same bits whether or not it was interrupted."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT, make_tokenizer

from mergekit_optimer.errors import InfrastructureError, RunFolderError, TrainError
from mergekit_optimer.recipe import Recipe
from mergekit_optimer.train import TrainingRecord, check_training, read_record, train_dataset, train_mixture
from mergekit_optimer.train.mixture import take_documents
from mergekit_optimer.train.options import effective_options
from mergekit_optimer.train.working_folder import WorkingFolder

DEFAULTS: dict[str, Any] = {
    "max_length": 64,
    "max_steps": 20,
    "per_device_train_batch_size": 4,
    "learning_rate": 1.0e-2,
    "save_steps": 5,
    "logging_steps": 5,
}


def make_recipe(
    folder: Path,
    mixture: dict[str, Any] | None = None,
    long: dict[str, Any] | None = None,
    **defaults: Any,
) -> Recipe:
    """Two datasets: ``long`` documents of about 60 tokens, ``short`` ones of about 10."""
    folder.mkdir(parents=True, exist_ok=True)
    write = {"long": [text * (1 + i % 3) for i, text in enumerate(TEXT * 8)], "short": [text[:20] for text in TEXT * 8]}
    for name, texts in write.items():
        lines = "".join(json.dumps({"text": f"{i} {text}"}) + "\n" for i, text in enumerate(texts))
        (folder / f"{name}.jsonl").write_text(lines)
    task = {"kind": "text", "path": "dev.jsonl"}
    datasets = {"long": {"path": "long.jsonl"} | (long or {}), "short": {"path": "short.jsonl"}}
    return Recipe.model_validate(
        {
            "name": "test",
            "base_model": {"path": "base"},
            "train": {"defaults": DEFAULTS | defaults, "datasets": datasets, "mixture": mixture},
            "search": {"objective": {"mean": ["a"]}},
            "tasks": {"a": task},
            "held_out": {"a": task},
            "folder": folder,
        }
    )


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def gpt2_dir(tiny_model: Callable[..., Path]) -> Path:
    """A base with dropout, so that a resumed run must restore the random state, stored in bfloat16."""
    return tiny_model("gpt2", arch="gpt2", dtype="bfloat16")


@pytest.fixture(scope="module")
def uninterrupted(gpt2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingRecord]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    record = train_dataset(make_recipe(folder), "long", gpt2_dir, folder / "out", device="cpu")
    return folder / "out", record


def test_a_checkpoint_is_a_plain_folder(uninterrupted: tuple[Path, TrainingRecord]) -> None:
    out, _ = uninterrupted
    assert sorted(file.name for file in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_record.json",
    ]
    assert [file.name for file in out.parent.iterdir() if file.name.startswith(".")] == []
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_bfloat16_base_is_trained_and_saved_in_float32(
    uninterrupted: tuple[Path, TrainingRecord], gpt2_dir: Path
) -> None:
    from safetensors.torch import load_file

    out, _ = uninterrupted
    trained, base = load_file(out / "model.safetensors"), load_file(gpt2_dir / "model.safetensors")
    assert trained.keys() == base.keys()
    assert {str(tensor.dtype) for tensor in trained.values()} == {"torch.float32"}
    assert all((trained[key] != base[key].float()).any() for key in base)


def test_a_checkpoint_differs_from_its_base_in_weights_and_dtype_only(
    uninterrupted: tuple[Path, TrainingRecord], gpt2_dir: Path
) -> None:
    out, _ = uninterrupted
    config = json.loads((out / "config.json").read_text())
    assert config | {"dtype": "bfloat16"} == json.loads((gpt2_dir / "config.json").read_text())
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (gpt2_dir / name).read_bytes()


def test_the_record_says_what_was_done(uninterrupted: tuple[Path, TrainingRecord], gpt2_dir: Path) -> None:
    from transformers import AutoTokenizer

    out, record = uninterrupted
    tokenizer = AutoTokenizer.from_pretrained(gpt2_dir)
    texts = [json.loads(line)["text"] for line in (out.parent / "long.jsonl").read_text().splitlines()]
    n_tokens = sum(len(tokenizer(text)["input_ids"]) + 1 for text in texts)
    assert read_record(out) == record
    assert (record.name, record.n_documents, record.n_tokens_in_data) == ("long", 40, n_tokens)
    assert (record.n_steps, record.learning_rate, record.seed, record.device) == (20, 1e-2, 0, "cpu")
    assert [step for step, _ in record.loss_curve] == [5, 10, 15, 20]
    assert record.loss_curve[-1][1] < record.loss_curve[0][1] - 0.5
    assert record.options["packing_strategy"] == "wrapped"
    # 38 rows in batches of 4 are 10 steps an epoch.
    assert record.n_tokens_trained == 2 * n_tokens


def test_one_epoch_trains_on_every_token_once(tmp_path: Path, base_dir: Path) -> None:
    recipe = make_recipe(tmp_path, max_steps=-1, num_train_epochs=1, gradient_accumulation_steps=2)
    record = train_dataset(recipe, "long", base_dir, tmp_path / "out", device="cpu")
    assert record.n_tokens_trained == record.n_tokens_in_data


def test_bfd_split_packing_keeps_and_counts_every_token(tmp_path: Path, base_dir: Path) -> None:
    recipe = make_recipe(tmp_path, max_steps=-1, packing_strategy="bfd_split", max_length=32)
    record = train_dataset(recipe, "long", base_dir, tmp_path / "out", device="cpu")
    assert record.n_tokens_trained == record.n_tokens_in_data


def test_a_document_that_ends_its_text_itself_gets_no_second_end(tmp_path: Path, base_dir: Path) -> None:
    recipe = make_recipe(tmp_path, max_steps=1)
    (tmp_path / "long.jsonl").write_text('{"text": "abc"}\n{"text": "abc<|endoftext|>"}\n')
    record = train_dataset(recipe, "long", base_dir, tmp_path / "out", device="cpu")
    one = make_recipe(tmp_path / "one", max_steps=1)
    (tmp_path / "one" / "long.jsonl").write_text('{"text": "abc"}\n')
    alone = train_dataset(one, "long", base_dir, tmp_path / "one" / "out", device="cpu")
    assert record.n_tokens_in_data == 2 * alone.n_tokens_in_data


def test_a_training_stopped_by_hand_ends_with_the_same_bits(
    tmp_path: Path,
    gpt2_dir: Path,
    uninterrupted: tuple[Path, TrainingRecord],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, record = uninterrupted
    recipe, out = make_recipe(tmp_path), tmp_path / "out"
    mark = WorkingFolder.mark_whole

    def stop_after_15(self: WorkingFolder, step: int, elapsed_s: float) -> None:
        mark(self, step, elapsed_s)
        if step == 15:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WorkingFolder, "mark_whole", stop_after_15)
        with pytest.raises(KeyboardInterrupt):
            train_dataset(recipe, "long", gpt2_dir, out, device="cpu")
    assert not out.exists()
    with caplog.at_level(logging.INFO):
        resumed = train_dataset(recipe, "long", gpt2_dir, out, device="cpu")
    assert "train long: going on after checkpoint of step 15" in caplog.messages
    assert weights_hash(out) == weights_hash(whole)
    assert resumed.loss_curve == record.loss_curve
    assert resumed.n_tokens_trained == record.n_tokens_trained
    assert not (tmp_path / ".out.training").exists()


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_train import make_recipe
from mergekit_optimer.train import train_dataset
from mergekit_optimer.train.working_folder import WorkingFolder
mark = WorkingFolder.mark_whole
def kill_at_10(self, step, elapsed_s):
    if step == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    mark(self, step, elapsed_s)
WorkingFolder.mark_whole = kill_at_10
folder = Path(sys.argv[2])
train_dataset(make_recipe(folder), "long", Path(sys.argv[1]), folder / "out", device="cpu")
"""


def test_a_training_killed_while_it_saves_ends_with_the_same_bits(
    tmp_path: Path,
    gpt2_dir: Path,
    uninterrupted: tuple[Path, TrainingRecord],
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(gpt2_dir), str(tmp_path)]
    killed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    torn = tmp_path / ".out.training" / "trainer" / "checkpoint-10"
    (torn / "optimizer.pt").write_bytes((torn / "optimizer.pt").read_bytes()[:1000])
    with caplog.at_level(logging.INFO):
        train_dataset(make_recipe(tmp_path), "long", gpt2_dir, tmp_path / "out", device="cpu")
    assert "checkpoint-10 is not whole; going back to the checkpoint before it" in caplog.messages
    assert "train long: going on after checkpoint of step 5" in caplog.messages
    assert weights_hash(tmp_path / "out") == weights_hash(uninterrupted[0])


def test_an_interrupted_training_with_other_options_starts_anew(
    tmp_path: Path, gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WorkingFolder, "mark_whole", stop)
        with pytest.raises(KeyboardInterrupt):
            train_dataset(make_recipe(tmp_path), "long", gpt2_dir, tmp_path / "out", device="cpu")
    with caplog.at_level(logging.INFO):
        train_dataset(make_recipe(tmp_path, max_steps=5), "long", gpt2_dir, tmp_path / "out", device="cpu")
    assert "train long: options, data or base differ from the interrupted training: starting anew" in caplog.messages
    fresh = make_recipe(tmp_path / "fresh", max_steps=5)
    train_dataset(fresh, "long", gpt2_dir, tmp_path / "fresh" / "out", device="cpu")
    assert weights_hash(tmp_path / "out") == weights_hash(tmp_path / "fresh" / "out")


def test_the_last_whole_checkpoint_is_found_among_torn_ones(tmp_path: Path) -> None:
    working = WorkingFolder(tmp_path / "work")
    assert working.last_whole() is None
    for step in (5, 10, 15):
        working.checkpoint_dir(step).mkdir(parents=True)
        (working.checkpoint_dir(step) / "weights").write_bytes(b"12345678")
    working.mark_whole(5, 1.5)
    working.mark_whole(10, 3.0)
    assert working.last_whole() == (working.checkpoint_dir(10), 3.0)
    (working.checkpoint_dir(10) / "weights").write_bytes(b"1234")
    assert working.last_whole() == (working.checkpoint_dir(5), 1.5)
    assert sorted(folder.name for folder in working.trainer_dir.iterdir()) == ["checkpoint-5"]


def test_a_finished_training_is_left_alone_and_another_one_is_refused(
    uninterrupted: tuple[Path, TrainingRecord], gpt2_dir: Path
) -> None:
    out, record = uninterrupted
    before = (out / "model.safetensors").stat()
    assert train_dataset(make_recipe(out.parent), "long", gpt2_dir, out, device="cpu") == record
    assert (out / "model.safetensors").stat() == before
    with pytest.raises(RunFolderError, match="out exists and holds another training"):
        train_dataset(make_recipe(out.parent, learning_rate=0.5), "long", gpt2_dir, out, device="cpu")


def test_the_same_training_is_left_alone_even_where_another_may_be_replaced(
    uninterrupted: tuple[Path, TrainingRecord], gpt2_dir: Path
) -> None:
    out, record = uninterrupted
    before = (out / "model.safetensors").stat()
    assert train_dataset(make_recipe(out.parent), "long", gpt2_dir, out, device="cpu", replace=True) == record
    assert (out / "model.safetensors").stat() == before


def test_another_training_is_replaced_where_asked(tmp_path: Path, base_dir: Path) -> None:
    out = tmp_path / "out"
    train_dataset(make_recipe(tmp_path, max_steps=1), "short", base_dir, out, device="cpu")
    (out / "of_the_old_one").write_text("x")
    two = make_recipe(tmp_path, max_steps=2)
    record = train_dataset(two, "short", base_dir, out, device="cpu", replace=True)
    assert record.n_steps == 2
    assert read_record(out) == record
    assert not (out / "of_the_old_one").exists()


@pytest.mark.parametrize("found", ["file", "folder", "damaged record", "record of another version"])
def test_what_is_no_training_is_replaced_only_where_asked(tmp_path: Path, base_dir: Path, found: str) -> None:
    out, recipe = tmp_path / "out", make_recipe(tmp_path, mixture={}, max_steps=1)
    if found == "file":
        out.write_text("x")
    else:
        out.mkdir()
        (out / "notes").write_text("x")
        if "record" in found:
            (out / "training_record.json").write_text("{" if found == "damaged record" else '{"name": "short"}')
    with pytest.raises(RunFolderError, match="out exists and holds another training"):
        train_mixture(recipe, base_dir, out, device="cpu")
    record = train_mixture(recipe, base_dir, out, device="cpu", replace=True)
    assert read_record(out) == record
    assert not (out / "notes").exists()


def test_a_training_that_cannot_start_replaces_nothing(tmp_path: Path, base_dir: Path) -> None:
    (tmp_path / "out").mkdir()
    recipe = make_recipe(tmp_path, lr_scheduler_type="cosin")
    with pytest.raises(TrainError):
        train_dataset(recipe, "short", base_dir, tmp_path / "out", device="cpu", replace=True)
    assert (tmp_path / "out").exists()


def test_gradients_turned_off_in_the_process_do_not_stop_training(tmp_path: Path, base_dir: Path) -> None:
    import torch

    torch.set_grad_enabled(False)
    try:
        train_dataset(make_recipe(tmp_path, max_steps=2), "short", base_dir, tmp_path / "out", device="cpu")
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
    assert weights_hash(tmp_path / "out") != weights_hash(base_dir)


def test_progress_goes_to_the_log_and_nothing_to_standard_output(
    tmp_path: Path, base_dir: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train_dataset(make_recipe(tmp_path), "short", base_dir, tmp_path / "out", device="cpu")
    assert capsys.readouterr().out == ""
    lines = [message for message in caplog.messages if message.startswith("train short: step 10/20  loss ")]
    assert len(lines) == 1
    assert "tokens/s" in lines[0]
    assert "s left" in lines[0]


def test_options_rank_ours_then_defaults_then_the_dataset(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, long={"learning_rate": 0.5}, weight_decay=0.1)
    options = effective_options(recipe, "long", "cpu")
    assert (options["learning_rate"], options["weight_decay"], options["lr_scheduler_type"]) == (0.5, 0.1, "cosine")
    assert (options["use_cpu"], options["bf16"], options["activation_checkpointing"]) == (True, False, False)
    assert effective_options(recipe, None, "cpu")["learning_rate"] == 1e-2
    assert effective_options(recipe, "long", "cuda")["bf16"] is True
    older = effective_options(make_recipe(tmp_path, gradient_checkpointing=True), "long", "cpu")
    assert "activation_checkpointing" not in older


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"packing_strategy": "bfd"}, "'bfd' loses tokens of long documents; use bfd_split or wrapped"),
    ({"max_length": None}, "packing needs max_length"),
    ({"max_length": 256}, "max_length 256 is beyond the 128 positions of base model base; set max_length to 128"),
    ({"lr_scheduler_type": "cosin"}, "TRL refuses its training options: .*cosin"),
    ({"eos_token": "<end>"}, "eos_token '<end>' is not in the vocabulary"),
    ({"eval_strategy": "steps"}, "TRL cannot train it: .*eval"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[next(iter(options)) for options, _ in REFUSED])
def test_an_option_that_does_not_fit_is_refused_in_a_sentence(
    tmp_path: Path, base_dir: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainError, match=rf"^Dataset 'long': .*{message}") as caught:
        train_dataset(make_recipe(tmp_path, **options), "long", base_dir, tmp_path / "out", device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainError, match="no CUDA device on this machine; train with --device cpu"):
        train_dataset(make_recipe(tmp_path), "long", base_dir, tmp_path / "out", device="cuda")


NOT_STARTED: list[tuple[dict[str, Any], str]] = [
    REFUSED[0],
    REFUSED[1],
    REFUSED[2],
    REFUSED[4],
]


@pytest.mark.parametrize(("options", "message"), NOT_STARTED, ids=[next(iter(one)) for one, _ in NOT_STARTED])
def test_a_training_is_checked_before_any_work(
    tmp_path: Path, base_dir: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainError, match=rf"^Dataset 'long': .*{message}"):
        check_training(make_recipe(tmp_path, long=options), "long", base_dir, "cpu")
    check_training(make_recipe(tmp_path, long=options), "short", base_dir, "cpu")
    check_training(make_recipe(tmp_path, long=options), "data_mixture", base_dir, "cpu")
    with pytest.raises(TrainError, match=rf"^Dataset 'data_mixture': .*{message}"):
        check_training(make_recipe(tmp_path, **options), "data_mixture", base_dir, "cpu")


def test_the_check_wants_a_tokenizer_that_can_end_documents(tmp_path: Path, base_dir: Path) -> None:
    shutil.copytree(base_dir, tmp_path / "base")
    make_tokenizer(tmp_path / "base", eos=False)
    with pytest.raises(TrainError, match="has no end-of-text token"):
        check_training(make_recipe(tmp_path), "long", tmp_path / "base", "cpu")
    check_training(make_recipe(tmp_path, eos_token="<|endoftext|>"), "long", tmp_path / "base", "cpu")
    with pytest.raises(TrainError, match=r"no dataset 'zh' \(it has: long, short\)"):
        check_training(make_recipe(tmp_path), "zh", base_dir, "cpu")


@pytest.mark.parametrize("tokenizer", ["{", '{"version": "1.0"}', None])
def test_the_check_names_a_base_whose_tokenizer_cannot_be_loaded(
    tmp_path: Path, base_dir: Path, tokenizer: str | None
) -> None:
    shutil.copytree(base_dir, tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").unlink()
    if tokenizer:
        (tmp_path / "base" / "tokenizer.json").write_text(tokenizer)
    with pytest.raises(TrainError, match="Base model base cannot be loaded") as caught:
        check_training(make_recipe(tmp_path), "long", tmp_path / "base", "cpu")
    assert "\n" not in str(caught.value)


def test_the_check_names_a_gpu_that_is_not_there(
    tmp_path: Path, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainError, match="no CUDA device on this machine; train with --device cpu"):
        check_training(make_recipe(tmp_path), "long", base_dir, "cuda")


def test_the_check_counts_processes_and_gpus(tmp_path: Path, base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(TrainError, match="4 processes were started on a machine with 2 CUDA devices; start 2 with"):
        check_training(make_recipe(tmp_path), "long", base_dir, "cuda")


CHECK_ONLY = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_train import make_recipe
from mergekit_optimer.train import check_training
check_training(make_recipe(Path(sys.argv[2])), "long", Path(sys.argv[1]), "cpu")
assert "trl" not in sys.modules
"""


def test_the_check_answers_without_importing_trl(tmp_path: Path, base_dir: Path) -> None:
    command = [sys.executable, "-c", CHECK_ONLY, str(base_dir), str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("where", ["loading", "training"])
def test_running_out_of_memory_is_the_machines_fault(
    tmp_path: Path, base_dir: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    import transformers

    def no_memory(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    if where == "loading":
        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", no_memory)
        words = "Memory ran out while loading base model base"
    else:
        monkeypatch.setattr(transformers.Trainer, "training_step", no_memory)
        words = "Memory ran out while training 'short' on cpu with per_device_train_batch_size 4 and max_length 64"
    with pytest.raises(InfrastructureError, match=words):
        train_dataset(make_recipe(tmp_path), "short", base_dir, tmp_path / "out", device="cpu")


def test_an_unknown_dataset_is_refused_with_the_known_ones(tmp_path: Path, base_dir: Path) -> None:
    with pytest.raises(TrainError, match=r"no dataset 'zh' \(it has: long, short\)"):
        train_dataset(make_recipe(tmp_path), "zh", base_dir, tmp_path / "out", device="cpu")


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path: Path, base_dir: Path) -> None:
    shutil.copytree(base_dir, tmp_path / "base")
    make_tokenizer(tmp_path / "base", eos=False)
    with pytest.raises(TrainError, match="has no end-of-text token"):
        train_dataset(make_recipe(tmp_path), "long", tmp_path / "base", tmp_path / "out", device="cpu")


def test_a_base_that_lacks_a_tensor_is_refused(tmp_path: Path, base_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(base_dir, tmp_path / "base")
    tensors = load_file(base_dir / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainError, match=r"lacks tensors \(model\.norm\.weight\)"):
        train_dataset(make_recipe(tmp_path), "long", tmp_path / "base", tmp_path / "out", device="cpu")


def test_a_training_that_diverges_is_an_error(tmp_path: Path, base_dir: Path) -> None:
    recipe = make_recipe(tmp_path, learning_rate=1e38, max_grad_norm=0.0, logging_steps=1)
    with pytest.raises(TrainError, match=r"'short' diverged: .*lower learning_rate"):
        train_dataset(recipe, "short", base_dir, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shares", [None, {"long": 3.0, "short": 1.0}])
def test_a_mixture_has_its_shares_of_tokens_and_the_steps_of_all_single_runs(
    tmp_path: Path, base_dir: Path, shares: dict[str, float] | None
) -> None:
    recipe = make_recipe(tmp_path, mixture={"shares": shares}, max_steps=10)
    record = train_mixture(recipe, base_dir, tmp_path / "out", device="cpu")
    assert record.name == "data_mixture"
    assert record.n_steps == 20
    assert record.mixture is not None
    wanted = {"long": 0.75, "short": 0.25} if shares else {"long": 0.5, "short": 0.5}
    assert {name: part.wanted_share for name, part in record.mixture.items()} == wanted
    for name, part in record.mixture.items():
        assert part.realised_share == pytest.approx(wanted[name], abs=0.01)
    assert record.n_tokens_trained == pytest.approx(20 * 4 * 64, rel=0.02)
    assert sorted(record.data_fingerprints) == ["long", "short"]
    assert read_record(tmp_path / "out") == record


def test_a_mixture_of_some_datasets_trains_on_as_much_as_their_single_runs(tmp_path: Path, base_dir: Path) -> None:
    recipe = make_recipe(tmp_path, mixture={}, long={"max_steps": 3}, max_steps=2)
    record = train_mixture(recipe, base_dir, tmp_path / "out", device="cpu", datasets=["long"])
    assert record.n_steps == 3
    assert record.mixture is not None
    assert list(record.mixture) == ["long"]
    assert list(record.data_fingerprints) == ["long"]
    whole = train_mixture(recipe, base_dir, tmp_path / "whole", device="cpu")
    assert whole.n_steps == 5


def test_shares_of_fewer_datasets_keep_the_tokens_of_all(tmp_path: Path, base_dir: Path) -> None:
    recipe = make_recipe(tmp_path, mixture={"shares": {"short": 2.0}}, max_steps=2)
    record = train_mixture(recipe, base_dir, tmp_path / "out", device="cpu", datasets=["short", "long"])
    assert record.n_steps == 4
    assert record.mixture is not None
    assert {name: part.wanted_share for name, part in record.mixture.items()} == {"short": 1.0}


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        (["long"], r"train\.mixture\.shares names short, which is not mixed here \(mixed: long\)"),
        (["long", "zh"], r"no dataset 'zh' \(it has: long, short\)"),
        ([], "no dataset to mix"),
    ],
)
def test_a_mixture_of_other_datasets_than_its_shares_is_refused(
    tmp_path: Path, base_dir: Path, datasets: list[str], message: str
) -> None:
    recipe = make_recipe(tmp_path, mixture={"shares": {"short": 1.0, "long": 1.0}})
    with pytest.raises(TrainError, match=message):
        train_mixture(recipe, base_dir, tmp_path / "out", device="cpu", datasets=datasets)


def test_a_mixture_trains_on_as_much_as_single_runs_of_whole_epochs(
    tmp_path: Path, base_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe(tmp_path, max_steps=-1, num_train_epochs=2, gradient_accumulation_steps=2)
    single = [
        train_dataset(recipe, name, base_dir, tmp_path / name, device="cpu") for name in ("long", "short")
    ]  # fmt: skip
    with caplog.at_level(logging.INFO):
        record = train_mixture(recipe, base_dir, tmp_path / "out", device="cpu")
    assert record.n_steps == sum(one.n_steps for one in single)
    assert record.n_tokens_in_data == pytest.approx(sum(one.n_tokens_trained for one in single), rel=0.01)
    assert record.mixture is not None
    passes = record.mixture["short"].n_passes
    assert passes > 2
    assert f"mixture: short is too small for its share and is read {passes:.1f} times" in caplog.messages


def test_documents_are_taken_until_their_tokens_are_met() -> None:
    taken = take_documents([10] * 100, 250, seed=0)
    assert len(taken) == len(set(taken)) == 25
    assert taken == take_documents([10] * 100, 250, seed=0)
    assert taken != take_documents([10] * 100, 250, seed=1)
    assert sorted(take_documents([10, 10], 50, seed=0)) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert take_documents([1000], 10, seed=0) == [0]
