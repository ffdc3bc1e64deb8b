"""What the trainer calls while it runs: progress lines, marks on whole checkpoints, and a stop when it diverges."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mergekit_optimer.errors import TrainError
from mergekit_optimer.train.working_folder import WorkingFolder

log = logging.getLogger(__name__)


def progress_callback(name: str, working: WorkingFolder, elapsed_before_s: float) -> Any:
    """Return a transformers TrainerCallback for one session of a training.

    Args:
        name: Dataset, for the log.
        working: Where the trainer writes its checkpoints.
        elapsed_before_s: Seconds trained by the sessions before this one.
    """
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self.started = time.monotonic()
            self.first_step = state.global_step
            self.first_tokens = state.num_input_tokens_seen

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:  # noqa: ARG002
            loss = (logs or {}).get("loss")
            if loss is None:
                return
            if not math.isfinite(loss):
                raise TrainError(
                    f"Training '{name}' diverged: the loss is {loss} at step {state.global_step}; lower learning_rate."
                )
            if state.is_world_process_zero:
                log.info("train %s: %s", name, self._line(state, loss))

        def _line(self, state: Any, loss: float) -> str:
            elapsed_s = max(time.monotonic() - self.started, 1e-9)
            steps = max(state.global_step - self.first_step, 1)
            tokens_per_s = (state.num_input_tokens_seen - self.first_tokens) / elapsed_s
            left_s = (state.max_steps - state.global_step) * elapsed_s / steps
            return (
                f"step {state.global_step}/{state.max_steps}  loss {loss:.3g}  {tokens_per_s:,.0f} tokens/s  "
                f"{left_s:.0f} s left"
            )

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002
            return _without_last_save(state, control)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002
            return _without_last_save(state, control)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            # Each process writes a file of its own into the checkpoint.
            args.distributed_state.wait_for_everyone()
            if state.is_world_process_zero:
                working.mark_whole(state.global_step, elapsed_before_s + time.monotonic() - self.started)

    return Progress()


def _without_last_save(state: Any, control: Any) -> Any:
    """Keep the trainer from saving at the last step: the model is saved then, and resuming there would train on."""
    if state.global_step >= state.max_steps:
        control.should_save = False
    return control


@contextmanager
def quiet_bars(is_first: bool) -> Iterator[None]:
    """Show the libraries' progress bars on a terminal only, and there those of the first process."""
    import datasets
    from transformers.utils import logging as transformers_logging

    if sys.stderr.isatty() and is_first:
        yield
        return
    datasets_shown = not datasets.are_progress_bars_disabled()
    transformers_shown = transformers_logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if datasets_shown:
            datasets.enable_progress_bars()
        if transformers_shown:
            transformers_logging.enable_progress_bar()
