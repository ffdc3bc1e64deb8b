"""The two ends of a training: the base model as it is loaded, the CPT checkpoint as it is left. Trains nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import TrainError
from mergekit_optimer.machine import memory_named

# Copied as they are: a tokenizer that is loaded and saved again may come out with other words in its files.
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
                   "chat_template*")  # fmt: skip
CODE_FILES = ("*.py",)


def load_base(base_dir: Path, trust_remote_code: bool) -> Any:
    """Load the base model in float32, whatever its stored dtype.

    Raises:
        TrainError: It is no causal language model, or tensors are missing and would be made up.
        InfrastructureError: It does not fit into memory.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with memory_named(f"loading base model {base_dir.name} in float32"):
            model, info = AutoModelForCausalLM.from_pretrained(
                base_dir, dtype=torch.float32, trust_remote_code=trust_remote_code, output_loading_info=True
            )
    except (OSError, ValueError) as error:
        raise TrainError(f"Base model {base_dir.name} cannot be loaded: {str(error).splitlines()[0]}") from error
    if info["missing_keys"]:
        raise TrainError(
            f"Base model {base_dir.name} lacks tensors ({', '.join(sorted(info['missing_keys'])[:3])}), which would "
            "start at random; fetch the whole model."
        )
    return model


def make_plain(folder: Path, base_dir: Path, trust_remote_code: bool) -> None:
    """Leave weights and configuration only, and put the base model's own tokenizer files beside them."""
    for file in folder.iterdir():
        # training_args.bin is a pickle that can hold a token.
        if file.suffix != ".safetensors" and file.name not in (
            "config.json",
            "generation_config.json",
            "model.safetensors.index.json",
        ):
            file.unlink()
    for pattern in TOKENIZER_FILES + (CODE_FILES if trust_remote_code else ()):
        for file in base_dir.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def check_weights(name: str, folder: Path) -> None:
    """Raise TrainError unless every saved tensor is float32 and finite."""
    import torch
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - a safetensors file is no mapping
                tensor = tensors.get_tensor(key)
                if tensor.is_floating_point() and tensor.dtype != torch.float32:
                    raise TrainError(f"Training '{name}' saved {key} as {tensor.dtype}, not float32.")
                if not bool(torch.isfinite(tensor).all()):
                    raise TrainError(f"Training '{name}' diverged: {key} is not finite; lower learning_rate.")
