"""The same sum as one compiled loop, where the machine has a C compiler. Decides nothing about what is summed.

torch has no operation that reads bfloat16 and adds in float32 in one pass, so each vector goes through the cache
several times; the loop reads every tensor once. It is built once per process (a third of a second) in a temporary
folder that is gone at once, and used only if a trial gives the bits that torch gives.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer.kernel.blocks import Term, add_in_blocks

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# Below this many numbers a thread of its own costs more than it saves.
THREAD_SHARE = 1 << 19

_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
_SOURCE = r"""
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { BLOCK = 1024 };

static inline float widen(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline uint16_t to_bfloat16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return f != f ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* out[low:high] = base + (w[0] * x[0] + w[1] * x[1] + ...); narrow: bfloat16, else float32; n_terms >= 1. */
void add_vectors(long low, long high, int n_terms, const void *base, int narrow, const void *const *x,
                 const int *x_narrow, const float *w, void *out) {
    float sum[BLOCK];
    for (long start = low; start < high; start += BLOCK) {
        int n = high - start < BLOCK ? (int)(high - start) : BLOCK;
        for (int k = 0; k < n_terms; k++) {
            float a = w[k];
            const uint16_t *h = (const uint16_t *)x[k] + start;
            const float *f = (const float *)x[k] + start;
            if (x_narrow[k] && k == 0) for (int i = 0; i < n; i++) sum[i] = widen(h[i]) * a;
            else if (x_narrow[k]) for (int i = 0; i < n; i++) sum[i] = fmaf(widen(h[i]), a, sum[i]);
            else if (k == 0) for (int i = 0; i < n; i++) sum[i] = f[i] * a;
            else for (int i = 0; i < n; i++) sum[i] = fmaf(f[i], a, sum[i]);
        }
        if (narrow) {
            const uint16_t *b = (const uint16_t *)base + start;
            uint16_t *o = (uint16_t *)out + start;
            for (int i = 0; i < n; i++) o[i] = to_bfloat16(sum[i] + widen(b[i]));
        } else {
            const float *b = (const float *)base + start;
            float *o = (float *)out + start;
            for (int i = 0; i < n; i++) o[i] = sum[i] + b[i];
        }
    }
}
"""


def add_vectors(base: torch.Tensor, terms: Sequence[Term], out: torch.Tensor) -> bool:
    """Write base + the sum of at least one term to a contiguous ``out``; False where this has to be left to torch."""
    import torch

    tensors = [base, out, *(term.tensor for term in terms)]
    known = all(
        t.device.type == "cpu" and t.dtype in (torch.float32, torch.bfloat16) and t.is_contiguous() for t in tensors
    )
    if not known or any(term.reference is not None for term in terms):
        return False
    function = compiled_function()
    if function is None:
        return False
    _call(function, base, terms, out)
    return True


def _call(function: Any, base: torch.Tensor, terms: Sequence[Term], out: torch.Tensor) -> None:
    import torch

    count, n = len(terms), base.numel()
    narrow = torch.bfloat16
    fixed = (
        ctypes.c_int(count),
        ctypes.c_void_p(base.data_ptr()),
        ctypes.c_int(base.dtype == narrow),
        (ctypes.c_void_p * count)(*(term.tensor.data_ptr() for term in terms)),
        (ctypes.c_int * count)(*(term.tensor.dtype == narrow for term in terms)),
        (ctypes.c_float * count)(*(term.weight for term in terms)),
        ctypes.c_void_p(out.data_ptr()),
    )
    n_shares = max(1, min(torch.get_num_threads(), n // THREAD_SHARE))
    bounds = [n * share // n_shares for share in range(n_shares + 1)]

    def add(low: int, high: int) -> None:
        function(ctypes.c_long(low), ctypes.c_long(high), *fixed)

    if n_shares == 1:
        add(0, n)
        return
    # ctypes lets go of the interpreter's lock. Kept threads would be lost to a fork.
    with ThreadPoolExecutor(n_shares) as pool:
        list(pool.map(add, bounds[:-1], bounds[1:]))


@functools.cache
def compiled_function() -> Any:
    """The compiled loop; None without a compiler, or where its bits are not torch's."""
    command = shlex.split(os.environ.get("CC", "cc"))
    if not command or shutil.which(command[0]) is None:
        log.debug("no C compiler: merging with torch alone")
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder, "sum.c"), Path(folder, "sum.so")
            source.write_text(_SOURCE, encoding="utf-8")
            subprocess.run(
                [*command, *_FLAGS, "-o", str(library), str(source), "-lm"], check=True, capture_output=True, timeout=60
            )
            function = ctypes.CDLL(str(library)).add_vectors
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("no compiled sum: merging with torch alone (%s)", error)
        return None
    function.restype = None
    if not _gives_the_same_bits(function):
        log.debug("the compiled sum rounds otherwise than torch: merging with torch alone")
        return None
    return function


def _gives_the_same_bits(function: Any) -> bool:
    """Compare with torch on made numbers: whether products are rounded before they are added differs by machine."""
    import torch

    made = torch.Generator().manual_seed(0)
    for dtype, integers in ((torch.float32, torch.int32), (torch.bfloat16, torch.int16)):
        for n in (4099, 7):
            base = torch.randn(n, generator=made).to(dtype)
            tensors = [torch.randn(n, generator=made).to(kind) for kind in (dtype, torch.float32, torch.bfloat16)]
            terms = [Term(w, tensor) for w, tensor in zip((0.7, -0.3, 1.1), tensors, strict=True)]
            ours, theirs = torch.empty_like(base), torch.empty_like(base)
            _call(function, base, terms, ours)
            add_in_blocks(base, terms, theirs)
            if not torch.equal(ours.view(integers), theirs.view(integers)):
                return False
    return True
