"""Whether a live model beside its mapped vectors fits into memory, said before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mergekit_optimer.errors import InfrastructureError
from mergekit_optimer.machine import available_memory_bytes
from mergekit_optimer.vectors import TensorFolder

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# Activations and logits of a batch of dev samples (on CUDA up to 2**30 logits, see ``evaluate``); what a merge sums in.
WORKING_BYTES = {"cpu": 1 << 29, "cuda": 1 << 33}
# What stays free beside that where a GPU keeps copies of base and vectors: generation's keys and values, fragments.
_SPARE_BYTES = 1 << 32


def check_memory(base_dir: Path, vector_dirs: Mapping[str, Path], device: str) -> None:
    """Check that a live model of the base fits on a device, and warn where the vectors will be read from disk again.

    Base and vectors are mapped files: they take what memory is left, and where that is too little a merge reads them
    from disk.

    Args:
        device: "cpu", or a CUDA device, which is sent what it has no room to keep tensor by tensor.

    Raises:
        InfrastructureError: It does not fit; the message gives the sum by part.
        VectorError: A folder holds no safetensors.
    """
    base = TensorFolder(base_dir)
    model, mapped = _size(base), sum(_size(TensorFolder(folder)) for folder in vector_dirs.values())
    files = f"base {_gb(model)} + {len(vector_dirs)} vectors {_gb(mapped)} mapped from disk"
    on_cuda = device.startswith("cuda")
    free = _free_on_gpus(base_dir, device) if on_cuda else available_memory_bytes()
    working = WORKING_BYTES["cuda" if on_cuda else "cpu"]
    if on_cuda:
        working += (2 + len(vector_dirs)) * max((base.get(name).nbytes for name in base.names), default=0)
    where = device if on_cuda else "memory"
    if free is not None and model + working > free:
        raise InfrastructureError(
            f"The search does not fit into {where}: {files}; the live model needs {_gb(model)} and its work "
            f"{_gb(working)}, {_gb(free)} are free. Free some, or take a larger machine or a base in a narrower dtype."
        )
    host = available_memory_bytes()
    left = None if host is None else host - (0 if on_cuda else model + working)
    if left is not None and model + mapped > left:
        log.warning(
            "%s: more than the %s that stay free beside the live model, so each trial reads from disk again",
            files, _gb(max(left, 0)),
        )  # fmt: skip


def rooms_on_gpus(devices: Iterable[torch.device], largest: int) -> dict[torch.device, int]:
    """Bytes that each GPU has left for copies of base and vectors, beside its part of the model.

    Args:
        devices: Where the model lies; CPUs are left out.
        largest: Bytes of the largest tensor, in base and vectors together: it may have to be sent beside what is kept.
    """
    reserved = WORKING_BYTES["cuda"] + _SPARE_BYTES + largest
    return {device: max(0, _free_on(device) - reserved) for device in devices if device.type == "cuda"}


def is_spread(base_dir: Path, device: str) -> bool:
    """Whether a model is to lie on several GPUs: "cuda" names none of them, there are more, and one is too small."""
    import torch

    if device != "cuda" or torch.cuda.device_count() < 2:
        return False
    return _size(TensorFolder(base_dir)) + WORKING_BYTES["cuda"] > _free_on(torch.device("cuda"))


def _size(folder: TensorFolder) -> int:
    return sum(file.stat().st_size for file in folder.files)


def _free_on_gpus(base_dir: Path, device: str) -> int:
    import torch

    if is_spread(base_dir, device):
        return sum(_free_on(torch.device("cuda", number)) for number in range(torch.cuda.device_count()))
    return _free_on(torch.device(device))


def _free_on(device: torch.device) -> int:
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    # What torch has freed and keeps for itself counts as used there.
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
