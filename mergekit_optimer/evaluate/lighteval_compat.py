"""What lighteval 0.13 does behind one's back, undone: import it and call it only inside ``contained``.

Each behaviour has a test in tests/test_upstream_lighteval.py that says what to drop here once it is gone.
"""

from __future__ import annotations

import logging
import random
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

from mergekit_optimer.machine import import_apart

# These task modules download at import, or call a huggingface_hub function that is gone, whatever task is wanted.
BROKEN_TASK_MODULES = ("tiny_benchmarks", "mix_eval.main", "mt_bench.main")


@contextmanager
def contained() -> Iterator[None]:
    """Run lighteval code, then restore what it changes: autograd's switch, the global random states, its log level.

    Its import and ``from_model`` turn autograd off for good; tasks reseed ``random``, which would make a sampler on it
    repeat itself; each call warns of things that are as they should be.
    """
    import numpy as np
    import torch

    import_apart("nltk")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    autograd = torch.is_grad_enabled()
    logger = logging.getLogger("lighteval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        torch.set_grad_enabled(autograd)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def broken_task_modules_left_out() -> Iterator[None]:
    """Let lighteval's registry import all of its tasks but those that cannot be imported here, without a download."""
    import nltk

    names = [f"lighteval.tasks.tasks.{name}" for name in BROKEN_TASK_MODULES]
    stubs = {name: types.ModuleType(name) for name in names if name not in sys.modules}
    sys.modules.update(stubs)
    # Two task modules fetch a tokenizer of sentences at import; the ones that need it say so when it is missing.
    download = nltk.download
    nltk.download = lambda *_, **__: False
    try:
        yield
    finally:
        nltk.download = download
        for name, stub in stubs.items():
            if sys.modules.get(name) is stub:
                del sys.modules[name]
