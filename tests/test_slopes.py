"""What a gradient is summed to along each vector: right to float32's own rounding, and the same on any threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mergekit_optimer.resident.slopes import _BLOCK, _add

# Two blocks, whole rows of a third, and a rest.
N = 2 * _BLOCK["cpu"] + 5 * 1024 + 77


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def sums_of(gradient: torch.Tensor, taus: dict[str, torch.Tensor]) -> dict[str, float]:
    sums = dict.fromkeys(taus, 0.0)
    _add(sums, gradient, taus)
    return sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [N, 1024, 77, 1, 0])
def test_an_inner_product_is_that_of_float64(n: int, dtype: torch.dtype) -> None:
    made = torch.Generator().manual_seed(0)
    gradient = torch.randn(n, generator=made).to(dtype)
    taus = {
        "ja": (gradient.float() * 0.1 + torch.randn(n, generator=made)).bfloat16(),
        "math": torch.randn(n, generator=made),
    }
    for name, found in sums_of(gradient, taus).items():
        products = gradient.double() * taus[name].double()
        assert found == pytest.approx(float(products.sum()), abs=1e-8 * float(products.abs().sum()) + 1e-12, rel=1e-6)


@pytest.mark.usefixtures("threads")
def test_it_does_not_depend_on_how_many_threads_there_are() -> None:
    made = torch.Generator().manual_seed(1)
    gradient = torch.randn(N, generator=made)
    taus = {name: torch.randn(N, generator=made) for name in ("ja", "math")}
    found = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        found.append(sums_of(gradient, taus))
    assert found[0] == found[1] == found[2]


def test_sums_go_on_and_a_tensor_of_any_shape_counts_once() -> None:
    gradient = torch.arange(12.0).reshape(3, 4)
    sums = {"ja": 1.0}
    _add(sums, gradient, {"ja": torch.ones(3, 4)})
    assert sums == {"ja": 67.0}
