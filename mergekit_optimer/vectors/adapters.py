"""A LoRA adapter over its base -> a distribution vector: merged by PEFT, saved by transformers, then subtracted.

What the adapter does to the base's logits and what the vector does are compared, so an adapter whose merge is another
model (an embedding trained apart from the output layer that it is tied to) is refused, not stored wrong.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer.errors import DiskError, VectorError
from mergekit_optimer.files import TEMPORARY
from mergekit_optimer.machine import disk_problem, memory_named
from mergekit_optimer.vectors.adapter_files import CONFIG, adapter_tensors, read_adapter_config
from mergekit_optimer.vectors.record import NOT_KNOWN, DistributionVector, Provenance
from mergekit_optimer.vectors.tensors import TensorFolder
from mergekit_optimer.vectors.vector import check_finite, copy_model_files, extract_vector

if TYPE_CHECKING:
    import torch

_N_PROBED = 24
# Of what the adapter changes in the logits; float32 and its order of sums are far below.
_TOLERANCE = 0.01
_ROUNDING = 1e-4
_UNTIE = "Untie the base, or train the adapter without embeddings."


def check_adapter(
    name: str, adapter_dir: Path, base_dir: Path, base_label: str, trust_remote_code: bool = False
) -> None:
    """Check that an adapter is a LoRA over a base, by names and shapes; no weight of the base is loaded.

    Raises:
        VectorError: It is no LoRA, has NaN, or tensors for modules or shapes that the base has not.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    what = f"Adapter '{name}'"
    config = read_adapter_config(what, adapter_dir)
    for key, tensor in adapter_tensors(adapter_dir):
        check_finite(what, key, tensor)
    with _peft_named(what, base_label), torch.device("meta"):
        base_config = AutoConfig.from_pretrained(base_dir, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_config(base_config, trust_remote_code=trust_remote_code)
        _check_fit(what, base_label, _wrapped(model, config, adapter_dir, load=False), adapter_dir)


def extract_adapter(
    name: str,
    adapter_dir: Path,
    base_dir: Path,
    out_dir: Path,
    base_label: str,
    dtype: str = "float32",
    provenance: Provenance = NOT_KNOWN,
    trust_remote_code: bool = False,
) -> DistributionVector:
    """Write the distribution vector that a LoRA adapter is.

    Memory: the base in float32. Disk: the same once more while it is made.

    Args:
        trust_remote_code: Whether code shipped with the base may run.

    Raises:
        VectorError: As ``check_adapter``, or the merged model is not the base with the adapter.
        RunFolderError: ``out_dir`` exists.
        InfrastructureError: Memory gave out.

    Source: Hu et al. 2021, arXiv 2106.09685, section 4.1.
    """
    check_adapter(name, adapter_dir, base_dir, base_label, trust_remote_code)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f"{TEMPORARY}{name}.") as work:
        merged_dir = Path(work) / "merged"
        _merge(f"Adapter '{name}'", adapter_dir, base_dir, merged_dir, base_label, trust_remote_code)
        return extract_vector(name, merged_dir, base_dir, out_dir, base_label, dtype, provenance, trust_remote_code)


def _merge(what: str, adapter_dir: Path, base_dir: Path, target: Path, label: str, trust_remote_code: bool) -> None:
    """Write base plus adapter as a checkpoint in float32, and check that it is that."""
    config = read_adapter_config(what, adapter_dir)
    with memory_named("merging an adapter"), _peft_named(what, label):
        model = _load(base_dir, trust_remote_code)
        probe = _probe(model.config, config)
        plain = _logits(model, probe)
        adapted = _wrapped(model, config, adapter_dir, load=True)
        _check_fit(what, label, adapted, adapter_dir)
        wanted = _logits(adapted, probe)
        adapted.merge_and_unload(safe_merge=True).save_pretrained(target)
        del model, adapted
        copy_model_files(base_dir, target, trust_remote_code)
        _check_names(what, target, base_dir, label)
        found = _logits(_load(target, trust_remote_code), probe)
    error, moved = float((found - wanted).norm()), float((wanted - plain).norm())
    if not error <= _TOLERANCE * moved + _ROUNDING * float(wanted.norm()):
        raise VectorError(
            f"{what} cannot be merged into the tensors of {label}: with them the model gives other logits than "
            f"with the adapter (does it train an embedding that is tied to the output layer?). {_UNTIE}"
        )


def _wrapped(model: Any, config: dict[str, Any], adapter_dir: Path, load: bool) -> Any:
    """The base with the adapter in it; without ``load`` with empty tensors of its shapes."""
    from peft import LoraConfig, PeftModel, get_peft_model

    if load:
        return PeftModel.from_pretrained(model, str(adapter_dir), torch_device="cpu").eval()
    known = {key: value for key, value in config.items() if key not in ("runtime_config", "auto_mapping")}
    return get_peft_model(model, LoraConfig(**known), low_cpu_mem_usage=True)


def _check_fit(what: str, label: str, adapted: Any, adapter_dir: Path) -> None:
    """Check that the adapter's file is all that the model has of it: nothing left aside, nothing left at its start."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    found = dict(adapter_tensors(adapter_dir))
    if extra := sorted(set(found) - set(state)):
        raise VectorError(
            f"{what} has {extra[0]}, for which {label} has no module ({len(extra)} of {len(found)} tensors); "
            "it belongs to another model."
        )
    if lacking := sorted(set(state) - set(found)):
        raise VectorError(f"{what} lacks {lacking[0]}, which its {CONFIG} promises; fetch or save it again.")
    for key, tensor in found.items():
        held = state[key]
        if held.shape != tensor.shape:
            raise VectorError(
                f"{what} has {key} of shape {tuple(tensor.shape)}, {label} needs {tuple(held.shape)}; it "
                "belongs to another model."
            )
        if not held.is_meta and not held.equal(tensor.to(held.dtype)):
            raise VectorError(f"{what}: PEFT does not load {key} as it is stored; merge the adapter yourself.")


def _check_names(what: str, merged_dir: Path, base_dir: Path, label: str) -> None:
    """Refuse tensors that transformers wrote under other names than the base's file has, or one more."""
    merged, base = TensorFolder(merged_dir), TensorFolder(base_dir)
    missing = [name for name in base.names if name not in merged]
    if missing:
        raise VectorError(
            f"{what}: transformers saves {label} without {missing[0]} or under another name; load the base, "
            "save it with save_pretrained, and name that folder."
        )
    extra = [name for name in merged.names if name not in base]
    if extra:
        raise VectorError(
            f"{what} cannot be merged into the tensors of {label}: it makes {extra[0]} another than the "
            f"embedding that it is tied to. {_UNTIE}"
        )


def _load(folder: Path, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=trust_remote_code).eval()


def _probe(base_config: Any, config: dict[str, Any]) -> torch.Tensor:
    """A line of tokens from all over the vocabulary, with those that the adapter trains on their own."""
    import torch

    text_config = base_config.get_text_config()
    indices = config.get("trainable_token_indices") or []
    trained = list(indices) if isinstance(indices, list) else [i for part in indices.values() for i in part]
    length = min(_N_PROBED, getattr(text_config, "max_position_embeddings", None) or _N_PROBED)
    spread = torch.linspace(0, text_config.vocab_size - 1, length).long().tolist()
    return torch.tensor([[*trained[: length // 2], *spread][:length]])


def _logits(model: Any, probe: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=probe).logits.float().clone()
    return logits


@contextmanager
def _peft_named(what: str, label: str) -> Iterator[None]:
    """Turn what PEFT and transformers raise into a sentence.

    Raises:
        VectorError: The adapter does not fit the base, or one of them is damaged.
        DiskError: The merged model cannot be written.
    """
    import torch
    from safetensors import SafetensorError

    try:
        # What PEFT warns of (keys it does not find, names of the base, tied layers) is checked here.
        with warnings.catch_warnings(action="ignore"):
            yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except (
        RuntimeError, ValueError, KeyError, TypeError, AttributeError, ImportError, OSError, SafetensorError,
    ) as error:  # fmt: skip
        if "DefaultCPUAllocator" in str(error):
            raise
        if (full := disk_problem(error)) is not None:
            raise DiskError(f"{what} cannot be merged: {full}. Mend that, then run the same command again.") from error
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise VectorError(f"{what} does not go with {label}: {reason[:300]}") from error
