"""One continual pre-training with TRL's SFTTrainer: documents and a base model -> a plain checkpoint folder."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer import files, runs
from mergekit_optimer.errors import RunFolderError, TrainError
from mergekit_optimer.machine import memory_named
from mergekit_optimer.train.checkpoint import check_weights, load_base, make_plain
from mergekit_optimer.train.options import make_config
from mergekit_optimer.train.progress import progress_callback, quiet_bars
from mergekit_optimer.train.record import RECORD_NAME, MixturePart, TrainingRecord, finished_record
from mergekit_optimer.train.trajectory import move_trajectory, trajectory_callback
from mergekit_optimer.train.working_folder import WorkingFolder
from mergekit_optimer.vectors.fingerprint import model_fingerprint

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

_DECIDING_PACKAGES = ("torch", "transformers", "trl", "datasets")


@dataclass(frozen=True)
class Training:
    """What is trained on, and how.

    Attributes:
        name: Dataset of the recipe, or ``data_mixture``.
        dataset: Documents, one column ``text``.
        n_tokens: Tokens of all documents, end-of-text included.
        data_fingerprints: By dataset.
        options: SFTConfig options.
        seed: The recipe's.
        device: "cpu" or a CUDA device.
        trust_remote_code: Whether code shipped with the base model may run.
        mixture: What each dataset gave, where there are several.
        keep_checkpoints: Points on the way to keep beside the checkpoint; None for none.
    """

    name: str
    dataset: Dataset
    n_tokens: int
    data_fingerprints: dict[str, str]
    options: dict[str, Any]
    seed: int
    device: str
    trust_remote_code: bool
    mixture: dict[str, MixturePart] | None = None
    keep_checkpoints: int | None = None

    @property
    def shares(self) -> dict[str, float] | None:
        return {name: part.wanted_share for name, part in self.mixture.items()} if self.mixture else None


def run_training(
    training: Training, tokenizer: Any, base_dir: Path, out_dir: Path, *, replace: bool = False
) -> TrainingRecord:
    """Train, or go on with an interrupted training of the same inputs, and write the checkpoint folder.

    Args:
        replace: Whether something else in ``out_dir`` is deleted, before training begins.

    Raises:
        TrainError: The base does not fit, packing lost a token, or training diverged.
        InfrastructureError: Memory ran out.
        RunFolderError: ``out_dir`` holds something else and ``replace`` is off.
    """
    working = WorkingFolder(out_dir.parent / f".{out_dir.name}.training")
    config = make_config(training.name, training.options, working.trainer_dir)
    versions = runs.package_versions()
    base_fingerprint = model_fingerprint(base_dir)
    # Where nothing is kept the key is left out: a training of before is the same training.
    kept = {"keep_checkpoints": training.keep_checkpoints} if training.keep_checkpoints else {}
    inputs = files.content_hash(
        kept
        | {
            "options": training.options,
            "data": training.data_fingerprints,
            "n_tokens": training.n_tokens,
            "shares": training.shares,
            "base": base_fingerprint,
            "device": training.device,
            "n_processes": config.world_size,
            "versions": {package: versions[package] for package in _DECIDING_PACKAGES},
        }
    )
    done = finished_record(out_dir)
    if done and done.inputs == inputs:
        log.info("train %s: done already", training.name)
        working.remove()
        return done
    if out_dir.exists() and not replace:
        raise RunFolderError(f"{out_dir} exists and holds another training; delete it or restore the recipe.")
    # Of several processes, the first clears up and the others find it done.
    with config.main_process_first(local=False, desc="working folder"):
        files.discard(out_dir)
        working.enter(training.name, inputs)
    # The two options that decide how much memory it takes.
    size = " and ".join(f"{key} {training.options[key]}" for key in ("per_device_train_batch_size", "max_length"))
    with (
        quiet_bars(config.process_index == 0),
        memory_named(f"training '{training.name}' on {training.device} with {size}"),
    ):
        session = _train(training, tokenizer, base_dir, config, working)
    record = TrainingRecord(
        name=training.name,
        inputs=inputs,
        base_fingerprint=base_fingerprint,
        data_fingerprints=training.data_fingerprints,
        n_documents=len(training.dataset),
        n_tokens_in_data=training.n_tokens,
        n_tokens_trained=session.n_tokens,
        n_steps=session.n_steps,
        learning_rate=float(training.options["learning_rate"]),
        options=training.options,
        loss_curve=session.loss_curve,
        elapsed_s=round(session.elapsed_s, 3),
        seed=training.seed,
        device=training.device,
        versions=versions,
        mixture=training.mixture,
    )
    if config.process_index == 0:
        check_weights(training.name, working.final_dir)
        with files.new_folder(out_dir) as folder:
            for file in working.final_dir.iterdir():
                os.replace(file, folder / file.name)
            move_trajectory(working.trajectory_dir, folder)
            files.write_json(folder / RECORD_NAME, record.to_json())
        working.remove()
    return record


@dataclass(frozen=True)
class _Session:
    """What the trainer did, all sessions together."""

    n_steps: int
    n_tokens: int
    loss_curve: list[tuple[int, float]]
    elapsed_s: float


def _train(training: Training, tokenizer: Any, base_dir: Path, config: Any, working: WorkingFolder) -> _Session:
    """Run the trainer and leave model and tokenizer in the working folder's ``final``."""
    import torch

    name = training.name
    model = load_base(base_dir, training.trust_remote_code)
    # The trainer aligns both with the tokenizer; the checkpoint differs from the base in weights alone.
    model_config, generation_config = copy.deepcopy(model.config), copy.deepcopy(model.generation_config)
    # Of several processes, the first clears up what a killed run left; the others find it done.
    with config.main_process_first(local=False, desc="documents"):
        documents = _on_disk(training.dataset, working.text_dir)
        resume = working.last_whole()
        shutil.rmtree(working.final_dir, ignore_errors=True)
    elapsed_before_s = resume[1] if resume else 0.0
    trainer = _make_trainer(name, model, config, documents, tokenizer)
    trainer.add_callback(progress_callback(name, working, elapsed_before_s))
    if training.keep_checkpoints:
        keeper = trajectory_callback(trainer, base_dir, working.trajectory_dir, training.keep_checkpoints)
        trainer.add_callback(keeper)
    _check_packing(name, trainer.train_dataset, training.n_tokens, len(training.dataset), tokenizer)
    if resume:
        log.info("train %s: going on after %s", name, resume[0].name.replace("-", " of step "))
    started = time.monotonic()
    # lighteval turns gradients off for the whole process when it is imported.
    with torch.enable_grad():
        trainer.train(resume_from_checkpoint=str(resume[0]) if resume else None)
    elapsed_s = elapsed_before_s + time.monotonic() - started
    unwrapped = trainer.accelerator.unwrap_model(trainer.model)
    unwrapped.config, unwrapped.generation_config = model_config, generation_config
    trainer.save_model(str(working.final_dir))
    if trainer.is_world_process_zero():
        make_plain(working.final_dir, base_dir, training.trust_remote_code)
    trainer.accelerator.wait_for_everyone()
    curve = [(entry["step"], float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry]
    return _Session(trainer.state.global_step, int(trainer.state.num_input_tokens_seen), curve, elapsed_s)


def _on_disk(dataset: Dataset, folder: Path) -> Any:
    """Return the documents as memory-mapped files, so that neither they nor their tokens have to fit in memory."""
    from datasets import load_from_disk

    if not folder.exists():
        with files.new_folder(folder) as work:
            dataset.save_to_disk(work)
    return load_from_disk(folder)


def _make_trainer(name: str, model: Any, config: Any, documents: Any, tokenizer: Any) -> Any:
    """Build the trainer, which tokenises and packs the documents.

    Raises:
        TrainError: TRL refuses the options together with this model or data.
    """
    from transformers import PrinterCallback, ProgressCallback
    from trl import SFTTrainer

    class Trainer(SFTTrainer):  # type: ignore[misc]
        """TRL's trainer without its model card (it describes a chat model) and its telemetry."""

        def create_model_card(self, *_: Any, **__: Any) -> None:
            return None

        def _send_telemetry(self) -> None:
            return None

    try:
        trainer = Trainer(model, args=config, train_dataset=documents, processing_class=tokenizer)
    except (ValueError, TypeError, ImportError) as error:
        raise TrainError(f"Dataset '{name}': TRL cannot train it: {' '.join(str(error).split())}") from error
    # Both print to standard output, which is for data.
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _check_packing(name: str, rows: Any, n_tokens: int, n_documents: int, tokenizer: Any) -> None:
    """Hold the packed rows against the documents: every token and every end-of-text is there.

    Raises:
        TrainError: They differ.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    n_packed = n_ends = 0
    for batch in rows.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=1000):
        ids = pc.list_flatten(batch.column("input_ids"))
        n_packed += len(ids)
        n_ends += pc.sum(pc.equal(ids, pa.scalar(tokenizer.eos_token_id, ids.type))).as_py() or 0
    if n_packed != n_tokens or n_ends < n_documents:
        raise TrainError(
            f"Packing '{name}' changed the data: {n_documents:,} documents of {n_tokens:,} tokens became rows with "
            f"{n_packed:,} tokens and {n_ends:,} ends of text. Report it with the versions of trl and datasets."
        )
    log.info(
        "train %s: %s documents, %s tokens in %s rows, none lost",
        name, f"{n_documents:,}", f"{n_tokens:,}", f"{len(rows):,}",
    )  # fmt: skip
