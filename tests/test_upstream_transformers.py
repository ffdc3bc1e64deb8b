"""Behaviour of transformers and torch that the resident merge leans on. A failure says what to change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from mergekit_optimer.vectors import TensorFolder


def test_reverting_the_conversion_of_loading_gives_the_stored_names(tiny_model: Callable[..., Path]) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    base = tiny_model("experts", arch="mixtral", tied=False, num_local_experts=4)
    model = AutoModelForCausalLM.from_pretrained(base)
    stored = revert_weight_conversion(model, model.state_dict())
    assert sorted(stored) == TensorFolder(base).names, "resident/live_tensors.py: names come from this function"


def test_the_conversion_copies_only_by_contiguous(tiny_model: Callable[..., Path]) -> None:
    from transformers import AutoModelForCausalLM

    from mergekit_optimer.resident.live_tensors import find_live_tensors

    base = tiny_model("experts-views", arch="qwen3_moe", tied=False, num_experts=4, moe_intermediate_size=24)
    model = AutoModelForCausalLM.from_pretrained(base)
    tensors, _ = find_live_tensors(model, TensorFolder(base))
    held = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert {t.view.untyped_storage().data_ptr() for t in tensors} == held, (
        "transformers copies in another way when it splits experts: View in resident/live_tensors.py must see it"
    )


def test_a_hook_after_accumulation_runs_once_for_a_parameter_used_twice() -> None:
    with torch.enable_grad():
        shared = torch.nn.Parameter(torch.tensor([2.0]))
        seen = []
        shared.register_post_accumulate_grad_hook(lambda p: seen.append(float(p.grad)))
        (shared * 3 + shared * 4).sum().backward()
    assert seen == [7.0], "resident/slopes.py counts on the whole gradient of a tied parameter at once"


def test_tensors_of_a_mapped_file_take_no_memory_of_their_own(base_dir: Path) -> None:
    folder = TensorFolder(base_dir)
    names = folder.names[:2]
    assert len({folder.get(name).untyped_storage().data_ptr() for name in names for _ in range(2)}) <= 2, (
        "safetensors copies tensors when they are asked for: resident/merge.py must not keep them"
    )
