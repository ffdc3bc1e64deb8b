"""What is the machine's fault: memory and disk that give out, told apart from wrong input and from collapsed models."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mergekit_optimer.errors import InfrastructureError

# Only what writing runs into: a refused or failing read is another matter, with a file of its own to name.
_DISK_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


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
