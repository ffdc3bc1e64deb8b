"""A LoRA adapter on disk: its configuration, checked to be one that changes tensors of a base only, and its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer.errors import VectorError
from mergekit_optimer.files import read_json
from mergekit_optimer.vectors.fingerprint import file_sha256

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# Options of a LoRA whose effect is a change of the base's tensors; any other that is set is refused, and so is one that
# this PEFT does not know: it would leave it aside.
_MERGEABLE = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "lora_alpha", "lora_bias", "lora_dropout", "megatron_core", "modules_to_save", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "target_parameters",
    "task_type", "trainable_token_indices", "use_dora", "use_rslora",
}  # fmt: skip
# Other beginnings (PiSSA, OLoRA, ...) take the adapter out of the base's own weights, which it then no longer is over.
_INITS = (None, True, False, "gaussian", "orthogonal", "eva")


def adapter_fingerprint(adapter_dir: Path) -> str:
    """SHA-256 of configuration and tensors of an adapter.

    Raises:
        VectorError: The folder holds no adapter.
    """
    read_adapter_config("The adapter", adapter_dir)
    return f"{file_sha256(adapter_dir / CONFIG)}+{file_sha256(adapter_dir / WEIGHTS)}"


def read_adapter_config(what: str, adapter_dir: Path) -> dict[str, Any]:
    """Read adapter_config.json and check that it is of a LoRA whose effect is on the base's tensors.

    Raises:
        VectorError: It is not.
    """
    if not (adapter_dir / CONFIG).exists():
        raise VectorError(f"{adapter_dir} holds no {CONFIG}, so it is no PEFT adapter; name the adapter's folder.")
    if not (adapter_dir / WEIGHTS).exists():
        if any(adapter_dir.glob("*.bin")):
            raise VectorError(
                f"{what} is there as pickle only, which can run code; save it as {WEIGHTS}, or set "
                "allow_pickle: true where the recipe names it."
            )
        raise VectorError(f"{adapter_dir} holds no {WEIGHTS}; save the adapter there with save_pretrained.")
    config = read_json(adapter_dir / CONFIG)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise VectorError(f"{what} is no LoRA but {kind!r}; only a LoRA is a sum with the base's tensors.")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise VectorError(f"{what} is for {config['task_type']!r}; wanted is one of a causal language model.")
    if config.get("init_lora_weights", True) not in _INITS:
        raise VectorError(
            f"{what} was begun with {config['init_lora_weights']!r}, which changes the base; convert it to a "
            "plain LoRA (PEFT's path_initial_model_for_weight_conversion) and name that."
        )
    if unknown := sorted(key for key, value in config.items() if value and key not in _MERGEABLE):
        raise VectorError(f"{what} sets {unknown[0]}, which is no change of the base's tensors that is known.")
    return dict(config)


def adapter_tensors(adapter_dir: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) of an adapter in name order.

    Raises:
        VectorError: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = adapter_dir / WEIGHTS
    try:
        with safe_open(str(path), framework="pt") as file:
            for key in sorted(file.keys()):
                yield key, file.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise VectorError(f"{path} is truncated or no safetensors file ({error}); fetch it again.") from error
