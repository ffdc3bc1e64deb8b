"""The sum of one tensor: the same bits by every road."""

from __future__ import annotations

import itertools

import pytest
import torch

from mergekit_optimer.errors import MergeError
from mergekit_optimer.kernel import Term, add_vectors, blocks, compiled
from mergekit_optimer.kernel.blocks import add_in_blocks

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def made(n: int, base: torch.dtype, others: torch.dtype) -> tuple[torch.Tensor, list[Term]]:
    generator = torch.Generator().manual_seed(n)
    tensors = [torch.randn(n, generator=generator) for _ in range(4)]
    weights = (0.8, -0.35, 0.1)
    return tensors[0].to(base), [Term(w, t.to(others)) for w, t in zip(weights, tensors[1:], strict=True)]


def bits(tensor: torch.Tensor) -> list[int]:
    found: list[int] = tensor.contiguous().view(INTEGERS[tensor.element_size()]).flatten().tolist()
    return found


@pytest.mark.parametrize(("base_dtype", "dtype"), list(itertools.product(DTYPES, DTYPES)))
@pytest.mark.parametrize("n", [1, 7, 1024, 5003])
def test_blocks_of_any_size_and_the_compiled_loop_give_the_same_bits(
    base_dtype: torch.dtype, dtype: torch.dtype, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, terms = made(n, base_dtype, dtype)
    expected = bits(add_vectors(base, terms))
    for block in (3, 64, 1 << 20):
        monkeypatch.setattr(blocks, "CPU_BLOCK", block)
        out = torch.empty_like(base)
        add_in_blocks(base, terms, out)
        assert bits(out) == expected
    out = torch.empty_like(base)
    # False where there is no compiler, or for a dtype it does not know.
    if compiled.add_vectors(base, terms, out):
        assert bits(out) == expected


def test_shares_of_several_threads_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    base, terms = made(10_007, torch.bfloat16, torch.bfloat16)
    expected = bits(add_vectors(base, terms))
    monkeypatch.setattr(compiled, "THREAD_SHARE", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert bits(add_vectors(base, terms)) == expected


@pytest.mark.parametrize("compiler", ["", "no-such-compiler-here", "false"])
def test_without_a_working_compiler_torch_does_it(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, terms = made(100, torch.bfloat16, torch.bfloat16)
    expected = bits(add_vectors(base, terms))
    monkeypatch.setenv("CC", compiler)
    compiled.compiled_function.cache_clear()
    try:
        assert compiled.compiled_function() is None
        assert not compiled.add_vectors(base, terms, torch.empty_like(base))
        assert bits(add_vectors(base, terms)) == expected
    finally:
        monkeypatch.undo()
        compiled.compiled_function.cache_clear()


def test_a_loop_that_rounds_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # Products rounded before they are added: what a machine without fused multiply-add does.
    monkeypatch.setattr(compiled, "_SOURCE", compiled._SOURCE.replace("fmaf(f[i], a, sum[i])", "sum[i] + f[i] * a"))
    compiled.compiled_function.cache_clear()
    try:
        assert compiled.compiled_function() is None
    finally:
        monkeypatch.undo()
        compiled.compiled_function.cache_clear()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_zero_weights_keep_every_bit_of_the_base(dtype: torch.dtype) -> None:
    base = torch.tensor([-0.0, 0.0, 1.0, float("inf"), 1e-40], dtype=dtype)
    zero = [Term(0.0, torch.full((5,), float("nan"), dtype=dtype))]
    out = torch.full_like(base, 9.0)
    for merged in (add_vectors(base, zero), add_vectors(base, []), add_vectors(base, zero, out=out)):
        assert bits(merged) == bits(base)
        assert merged.data_ptr() != base.data_ptr()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_result_is_written_where_it_is_wanted(dtype: torch.dtype) -> None:
    base, terms = made(600, dtype, dtype)
    base, terms = base.view(20, 30), [Term(term.weight, term.tensor.view(20, 30)) for term in terms]
    expected = bits(add_vectors(base, terms))
    room = torch.zeros(40, 60, dtype=dtype)
    part = room[1:21, 10:40]
    assert add_vectors(base, terms, out=part) is part
    assert bits(part) == expected
    assert int((room != 0).sum()) == int((part != 0).sum())
    turned = torch.zeros(30, 20, dtype=dtype).T
    add_vectors(base, terms, out=turned)
    assert bits(turned) == expected
    assert bits(add_vectors(base.T, [Term(t.weight, t.tensor.T) for t in terms]).T) == expected


def test_references_are_subtracted_in_float32() -> None:
    base, terms = made(50, torch.bfloat16, torch.bfloat16)
    with_reference = [Term(0.5, terms[0].tensor, terms[1].tensor), terms[2]]
    shift = 0.5 * (terms[0].tensor.float() - terms[1].tensor.float())
    expected = (torch.add(shift, terms[2].tensor.float(), alpha=0.1) + base.float()).to(torch.bfloat16)
    assert torch.equal(add_vectors(base, with_reference), expected)
    assert add_vectors(base, [Term(1.0, terms[0].tensor, base)]).equal(terms[0].tensor)


def test_a_target_of_another_shape_or_dtype_is_refused() -> None:
    for out in (torch.zeros(4), torch.zeros(3, dtype=torch.bfloat16)):
        with pytest.raises(MergeError, match="cannot be written to"):
            add_vectors(torch.zeros(3), [], out=out)
