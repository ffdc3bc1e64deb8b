"""What is the machine's: memory, disk and the user's cache; what gives out is told apart from wrong input."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mergekit_optimer.errors import InfrastructureError

# Only what writing runs into: a refused or failing read is another matter, with a file of its own to name.
_DISK_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def user_cache_dir() -> Path:
    """What may be made again: ``$XDG_CACHE_HOME/mergekit-optimer``, of ~/.cache where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergekit-optimer"


@contextmanager
def memory_named(work: str) -> Iterator[None]:
    """Turn running out of memory, and a device that fails, into an InfrastructureError that names the work."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InfrastructureError(f"Memory ran out while {work}; free some, or give less at once.") from error
    except torch.AcceleratorError as error:
        raise InfrastructureError(f"The device failed while {work}: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        # The allocator of the CPU has no error class of its own.
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise InfrastructureError(f"Memory ran out while {work}; free some, or give less at once.") from error


def drop_unused_memory() -> None:
    """Give back what nobody uses any more: reference cycles, and the blocks that torch keeps of a GPU's memory."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def out_of_memory(error: InfrastructureError) -> bool:
    """Whether a device's memory gave out, rather than the host's."""
    import torch

    return isinstance(error.__cause__, torch.OutOfMemoryError)


def import_apart(module: str) -> None:
    """Import a module on a thread of its own, whose frames hold nothing of ours.

    Some (nltk, optuna) keep the error of an optional import that failed, and with it every frame that was waiting for
    it: a model that one of these holds would live as long as the process.
    """
    if module not in sys.modules:
        with ThreadPoolExecutor(1) as apart:
            apart.submit(importlib.import_module, module).result()


def disk_problem(error: BaseException) -> str | None:
    """The system's words for a disk that is full or cannot be written, where that is why something failed."""
    from safetensors import SafetensorError

    for code in _DISK_CODES:
        # safetensors writes from Rust and only keeps the system's words.
        if isinstance(error, OSError) and error.errno == code:
            return os.strerror(code)
        if isinstance(error, SafetensorError) and f"os error {code})" in str(error):
            return os.strerror(code)
    return None


def available_memory_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that a process may still take without swapping: what the system has, or what its container leaves.

    Pages of files count as free, because they can be dropped. None where the system does not say (not Linux).
    """
    try:
        system = _fields(proc / "meminfo")["MemAvailable:"] * 1024
    except (OSError, KeyError):
        return None
    return min([system, *_left_in_containers(proc, cgroups)])


def _left_in_containers(proc: Path, cgroups: Path) -> list[int]:
    """Limit less usage of the control group and of each above it, in both versions' files."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file") if controllers else (
            "memory.max", "memory.current", "inactive_file")  # fmt: skip
        group = root / path.strip("/")
        # A container sees its own group as the root, whatever path it is told.
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                left += _left_in(folder, *names)
    return left


def _left_in(group: Path, limit_file: str, usage_file: str, droppable: str) -> list[int]:
    try:
        limit = int((group / limit_file).read_text(encoding="utf-8"))
        usage = int((group / usage_file).read_text(encoding="utf-8"))
        pages = _fields(group / "memory.stat").get(droppable, 0)
    except (OSError, ValueError):
        # No such group here, or its limit is "max".
        return []
    return [max(0, limit - usage + pages)]


def _fields(path: Path) -> dict[str, int]:
    """Return the first number of each line under its first word."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
