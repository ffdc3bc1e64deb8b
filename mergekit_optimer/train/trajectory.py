"""Points on the way of a training: the model at a few steps, kept as its delta from the base. Measures nothing.

Each is a folder ``trajectory/step-0000064`` of the checkpoint: model.safetensors with theta_t - theta_0 in bfloat16 and
step.json. That is half a checkpoint's size, and the rounding moves a cosine by some 1e-6.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer import files
from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.vectors.stream import write_tensors
from mergekit_optimer.vectors.tensors import TensorFolder

if TYPE_CHECKING:
    import torch

TRAJECTORY = "trajectory"
_RECORD = "step.json"


@dataclass(frozen=True)
class TrajectoryStep:
    """One kept point.

    Attributes:
        step: Optimiser steps done.
        n_steps: Of the whole training.
        n_tokens: Tokens trained on so far.
        folder: Holds theta_t - theta_0 as tensors under the base's names.
    """

    step: int
    n_steps: int
    n_tokens: int
    folder: Path


def steps_to_keep(n_steps: int, n_checkpoints: int) -> list[int]:
    """Steps that divide a training into n + 1 even parts; fewer where it is too short to have so many."""
    wanted = {round(part * n_steps / (n_checkpoints + 1)) for part in range(1, n_checkpoints + 1)}
    return sorted(wanted - {0, n_steps})


def trajectory_callback(trainer: Any, base_dir: Path, folder: Path, n_checkpoints: int) -> Any:
    """Return a transformers TrainerCallback that writes the points into a folder while the trainer runs.

    What a resumed training passes again is written again: the folder then holds the way that led to the checkpoint.

    Args:
        trainer: It saves the model by its own means, which know sharded parameters and the names in the file.
        folder: In the working folder of the training.
    """
    from transformers import TrainerCallback

    saved = folder / f"{files.TEMPORARY}whole"

    class Keeper(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if state.global_step not in steps_to_keep(state.max_steps, n_checkpoints):
                return
            if state.is_world_process_zero:
                files.discard(saved)
            # Every process takes part: the parameters may be spread over them.
            trainer.save_model(str(saved), _internal_call=True)
            if state.is_world_process_zero:
                step = TrajectoryStep(
                    state.global_step,
                    state.max_steps,
                    int(state.num_input_tokens_seen),
                    folder / f"step-{state.global_step:07d}",
                )
                _write(step, saved, base_dir)
                files.discard(saved)

    return Keeper()


def move_trajectory(folder: Path, checkpoint_dir: Path) -> None:
    """Move the points that were written, where there are any, to the checkpoint that they led to."""
    for step in sorted(folder.glob("step-*")):
        (checkpoint_dir / TRAJECTORY).mkdir(exist_ok=True)
        os.replace(step, checkpoint_dir / TRAJECTORY / step.name)


def read_trajectory(checkpoint_dir: Path) -> list[TrajectoryStep]:
    """The kept points of a checkpoint in the order of their steps; none where none were kept.

    Raises:
        RunFolderError: A point's record is missing or damaged.
    """
    points = []
    for folder in sorted((checkpoint_dir / TRAJECTORY).glob("step-*")):
        data = files.read_json(folder / _RECORD)
        try:
            points.append(TrajectoryStep(**data, folder=folder))
        except TypeError as error:
            raise RunFolderError(
                f"{folder / _RECORD} is no record of this version; delete {checkpoint_dir} and train it again."
            ) from error
    return points


def _write(step: TrajectoryStep, saved: Path, base_dir: Path) -> None:
    import torch

    base, now = TensorFolder(base_dir), TensorFolder(saved)
    # A tied output layer that the base stores twice is not saved again.
    names = [name for name in base.names if name in now]

    def deltas() -> Iterator[tuple[str, torch.Tensor]]:
        for name in names:
            yield name, (now.get(name).float() - base.get(name).float()).to(torch.bfloat16)

    files.discard(step.folder)
    with files.new_folder(step.folder) as work:
        write_tensors(deltas(), {name: base.shape(name) for name in names}, "bfloat16", work)
        record = asdict(step)
        del record["folder"]
        files.write_json(work / _RECORD, record)
