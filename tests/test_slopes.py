"""The slope along each vector: that of finite differences, right to float32's own rounding, the same on any threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_pool import Maker, Pool, loss

from mergekit_optimer.evaluate import load_model
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


@pytest.mark.parametrize(
    ("arch", "options"),
    [("llama", {}), ("llama", {"tied": False}), ("gpt2", {}), ("mixtral", {"num_local_experts": 4})],
)
def test_slopes_are_the_finite_differences(
    tiny_model: Maker, tmp_path: Path, arch: str, options: dict[str, Any]
) -> None:
    pool = Pool(tiny_model, tmp_path, arch, **options)
    pool.model = load_model(pool.base, "cpu", dtype=torch.float64)
    if arch == "mixtral":
        # The grouped product knows no float64.
        pool.model.set_experts_implementation("eager")
    resident = pool.resident()
    at = {"ja": 0.3, "math": -0.2}
    resident.merge(at)
    with resident.slopes() as slopes:
        loss(pool.model).backward()

    def value(weights: dict[str, float]) -> float:
        resident.merge(weights)
        return loss(pool.model).item()

    for name in at:

        def difference(step: float, name: str = name) -> float:
            return (value(at | {name: at[name] + step}) - value(at | {name: at[name] - step})) / (2 * step)

        # Two steps cancel the curvature: smaller ones drown in the float32 of the files and of the norms.
        expected = (4 * difference(5e-3) - difference(1e-2)) / 3
        assert slopes[name] == pytest.approx(expected, rel=2e-3, abs=2e-5)


def test_slopes_add_up_over_batches_and_leave_the_model_as_it_was(pool: Pool) -> None:
    resident = pool.resident()
    first = next(pool.model.parameters())
    for parameter in pool.model.parameters():
        parameter.requires_grad_(parameter is first)
    first.grad = torch.ones_like(first)
    with resident.slopes() as slopes:
        assert slopes == {"ja": 0.0, "math": 0.0}
        loss(pool.model).backward()
        once = dict(slopes)
        assert all(parameter.grad is None for parameter in pool.model.parameters())
        loss(pool.model).backward()
    assert slopes == {name: pytest.approx(2 * slope) for name, slope in once.items()}
    assert all(slope != 0.0 for slope in once.values())
    assert [p.requires_grad for p in pool.model.parameters()] == [p is first for p in pool.model.parameters()]
    assert torch.equal(first.grad, torch.ones_like(first))
    loss(pool.model).backward()
    assert slopes == {name: pytest.approx(2 * slope) for name, slope in once.items()}
