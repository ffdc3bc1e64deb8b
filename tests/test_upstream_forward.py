"""Behaviours of transformers' forward passes that ``evaluate`` leans on; each failure says what to change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

ARCHITECTURES = ["llama", "qwen3", "gemma3_text", "gpt2"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tiny_model: Callable[..., Any]) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model(f"forward_{request.param}", arch=request.param)).eval()


def test_a_mask_of_four_dimensions_is_used_as_it_is(model: Any) -> None:
    import torch

    ids = torch.tensor([[5, 6, 7, 8]])
    mask = torch.full((1, 1, 4, 4), torch.finfo(torch.float32).min).triu(1)
    mask[..., 3, 2] = torch.finfo(torch.float32).min
    with torch.no_grad():
        packed = model(input_ids=ids, attention_mask=mask, position_ids=torch.tensor([[0, 1, 2, 2]])).logits[0, 3]
        alone = model(input_ids=ids[:, [0, 1, 3]]).logits[0, 2]
    assert torch.allclose(packed, alone, rtol=1e-4, atol=1e-5), (
        "packed rows are no longer right: see evaluate/forward.py"
    )


def test_logits_are_what_the_output_layer_makes_of_the_rows_it_is_shown(model: Any) -> None:
    import torch

    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: (args[0].flatten(0, 1)[[1, 6]][None],)
    )
    with torch.no_grad():
        picked = model(input_ids=ids).logits
        hook.remove()
        whole = model(input_ids=ids).logits
    assert picked.shape[:2] == (1, 2), "the output layer is used in another way: see Forward._picking"
    assert torch.allclose(picked[0], torch.stack([whole[0, 1], whole[1, 2]]), rtol=1e-4, atol=1e-5)


def test_position_ids_that_start_again_split_a_row_where_there_is_no_mask(tiny_model: Callable[..., Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model("forward_split")).eval()
    with torch.no_grad():
        split = model(input_ids=torch.tensor([[5, 6, 7]]), position_ids=torch.tensor([[0, 1, 0]]), use_cache=False)
        alone = model(input_ids=torch.tensor([[7]]))
    same = torch.allclose(split.logits[0, 2], alone.logits[0, 0], rtol=1e-4, atol=1e-5)
    assert same, "abilities need not look whether a packed choice sees its context"
