"""Which SFTConfig options a training runs with, and what is refused before any work is done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer.errors import TrainError
from mergekit_optimer.recipe import Recipe

if TYPE_CHECKING:
    from trl import SFTConfig

# TRL's defaults are for chat data; these are for continual pre-training. Logs and checkpoints are shares of the run.
FOR_CPT: dict[str, Any] = {
    "max_length": 1024,
    "packing_strategy": "wrapped",
    "shuffle_dataset": True,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "logging_steps": 0.025,
    "logging_nan_inf_filter": False,
    "save_strategy": "steps",
    "save_steps": 0.1,
    "save_total_limit": 2,
    "report_to": "none",
    "disable_tqdm": True,
}
# On a CPU, TRL's bfloat16 and recomputed activations cost seven times the time.
ON_CPU: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "dataloader_pin_memory": False,
}
ON_GPU: dict[str, Any] = {"bf16": True, "activation_checkpointing": True}

# TRL's own default "bfd" drops the end of long documents and their end-of-text with it.
LOSSLESS_PACKING = ("bfd_split", "wrapped")


def effective_options(recipe: Recipe, dataset: str | None, device: str) -> dict[str, Any]:
    """Return the SFTConfig options of a dataset: ours, then ``train.defaults``, then the dataset's own.

    Args:
        recipe: With a ``train`` section.
        dataset: Name in ``train.datasets``; None for the mixture, which takes no dataset's own options.
        device: "cpu" or a CUDA device.
    """
    assert recipe.train is not None
    asked = dict(recipe.train.defaults)
    if dataset is not None:
        asked |= recipe.train.datasets[dataset].sft_options
    options = FOR_CPT | (ON_CPU if device == "cpu" else ON_GPU) | asked
    # The old name of an option, or another precision, replaces ours instead of contradicting it.
    if "gradient_checkpointing" in asked and "activation_checkpointing" not in asked:
        del options["activation_checkpointing"]
    if asked.get("fp16") and "bf16" not in asked:
        options["bf16"] = False
    return options | {"seed": recipe.seed}


def check_options(name: str, options: dict[str, Any]) -> None:
    """Check what needs no TRL, which takes seconds to import.

    Raises:
        TrainError: No such device, more processes than devices, or packing would lose tokens.
    """
    import torch

    if not options.get("use_cpu") and not torch.cuda.is_available():
        raise TrainError(f"Dataset '{name}': there is no CUDA device on this machine; train with --device cpu.")
    n_started, n_devices = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if not options.get("use_cpu") and n_started > max(n_devices, 1):
        raise TrainError(
            f"Dataset '{name}': {n_started} processes were started on a machine with {n_devices} CUDA devices; start "
            f"{n_devices} with --nproc-per-node."
        )
    if options["packing_strategy"] not in LOSSLESS_PACKING:
        raise TrainError(
            f"Dataset '{name}': packing_strategy '{options['packing_strategy']}' loses tokens of long documents; "
            f"use {' or '.join(LOSSLESS_PACKING)}."
        )
    if options["max_length"] is None:
        raise TrainError(f"Dataset '{name}': packing needs max_length; give a number of tokens.")


def make_config(name: str, options: dict[str, Any], output_dir: Path) -> SFTConfig:
    """Build TRL's configuration.

    Raises:
        TrainError: As ``check_options``, or SFTConfig refuses an option.
    """
    check_options(name, options)
    from trl import SFTConfig

    # Padded rows carry a mask to count by; padding-free batches hold nothing but tokens.
    counting = "non_padding" if options["packing_strategy"] == "wrapped" else "all"
    owned = {
        "output_dir": str(output_dir),
        "dataset_text_field": "text",
        "packing": True,
        "include_num_input_tokens_seen": counting,
    }
    try:
        return SFTConfig(**(options | owned))
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise TrainError(
            f"Dataset '{name}': TRL refuses its training options: {' '.join(str(error).split())}"
        ) from error


def load_tokenizer(name: str, base_dir: Path, options: dict[str, Any], trust_remote_code: bool) -> Any:
    """Load the base model's tokenizer and check that documents can be ended and cut as asked.

    Raises:
        TrainError: No tokenizer, no end-of-text token, or ``max_length`` beyond the model's positions.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(base_dir, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(base_dir, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, OSError | ValueError) and str(error) else repr(error)
        raise TrainError(f"Base model {base_dir.name} cannot be loaded: {reason}") from error
    if tokenizer.eos_token is None and options.get("eos_token") is None:
        raise TrainError(
            f"The tokenizer of base model {base_dir.name} has no end-of-text token, so documents cannot be told "
            "apart; set eos_token in train.defaults to a token of its vocabulary."
        )
    if options.get("eos_token") is not None:
        if options["eos_token"] not in tokenizer.get_vocab():
            raise TrainError(
                f"Dataset '{name}': eos_token '{options['eos_token']}' is not in the vocabulary of base model "
                f"{base_dir.name}; name a token that is."
            )
        tokenizer.eos_token = options["eos_token"]
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and options["max_length"] > limit:
        raise TrainError(
            f"Dataset '{name}': max_length {options['max_length']} is beyond the {limit} positions of base model "
            f"{base_dir.name}; set max_length to {limit} or less."
        )
    # Whole documents are tokenised before they are packed; the limit above holds for what the model sees.
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def document_lengths(texts: Any, tokenizer: Any) -> list[int]:
    """Return the tokens of each document as it is trained on: with its special tokens and end-of-text."""
    eos = tokenizer.eos_token
    lengths: list[int] = []
    for start in range(0, len(texts), 1000):
        ended = [text if text.endswith(eos) else text + eos for text in texts[start : start + 1000]]
        lengths += [len(ids) for ids in tokenizer(ended)["input_ids"]]
    return lengths
