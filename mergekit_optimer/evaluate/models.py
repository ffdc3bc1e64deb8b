"""A model folder -> a model ready to be scored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer.errors import TaskError
from mergekit_optimer.machine import memory_named
from mergekit_optimer.resident import is_spread

if TYPE_CHECKING:
    import torch


def load_model(
    model_dir: Path,
    device: str,
    trust_remote_code: bool = False,
    dtype: torch.dtype | None = None,
    device_map: Any = None,
) -> torch.nn.Module:
    """Load a causal language model for scoring, from safetensors only.

    Args:
        model_dir: Local model folder.
        device: Where to put it ("cpu", "cuda:0"). "cuda" spreads a model that one GPU has no room for over all of them.
        trust_remote_code: Whether code in the folder may run.
        dtype: None keeps the dtype it is stored in.
        device_map: Where to put which part, in accelerate's words; None leaves it to ``device``.

    Raises:
        TaskError: The folder holds no model that can be loaded.
        InfrastructureError: It does not fit into memory.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    with memory_named(f"loading {model_dir.name}"), _no_progress_bar():
        if device_map is None and is_spread(model_dir, device):
            device_map = "auto"
        try:
            model, found = AutoModelForCausalLM.from_pretrained(
                str(model_dir),
                dtype="auto" if dtype is None else dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                device_map=device_map,
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if "custom code" in reason:
                reason += " Set trust_remote_code: true beside it, at a commit whose code you have read."
            raise TaskError(f"{model_dir} cannot be loaded as a causal language model: {reason}") from error
        if missing := sorted(found["missing_keys"]):
            # transformers fills them with random numbers and only warns.
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise TaskError(f"{model_dir} lacks the weights {missing[0]}{more}; write the model again.")
        # A model that is spread stays where it is; its hooks bring each input along.
        loaded: torch.nn.Module = (model if device_map is not None else model.to(device)).eval()
    return loaded


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A bar per loaded model would bury the line per trial."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
