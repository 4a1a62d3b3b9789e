"""Mixtures of Gaussian kernels by their closed derivatives, against automatic differentiation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ppl_vae.objectives.divergences.cramer_wold import _Projected
from ppl_vae.objectives.divergences.diagonal import mixture_at, mixture_between
from ppl_vae.objectives.divergences.energy import _Distance
from ppl_vae.objectives.divergences.kernels import IMQ, RBF, Kernel, Laplacian, MultiScale

KERNELS = [RBF(), IMQ(), Laplacian(), MultiScale(), _Distance(), _Projected(3)]
each = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)


def nodes(kernel: Kernel, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    weights, multipliers = kernel.mixture()
    return torch.tensor(weights, dtype=dtype), torch.tensor(multipliers, dtype=dtype)


def pairs(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    delta = torch.randn(*shape, 3, dtype=torch.float64)
    variance = torch.rand(*shape, 3, dtype=torch.float64) + 0.1
    return delta.requires_grad_(), variance.requires_grad_()


def by_logarithms(delta: Tensor, variance: Tensor, kernel: Kernel) -> Tensor:
    """The definition, a node at a time."""
    value = torch.zeros(delta.shape[:-1], dtype=delta.dtype)
    for w, m in zip(*kernel.mixture(), strict=True):
        spread = torch.log1p(variance / m) + delta.square() / (variance + m)
        exponent = -0.5 * spread.sum(-1)
        value = value + w * (exponent.expm1() if kernel.is_distance else exponent.exp())
    return value


@each
def test_values_and_gradients_are_the_definitions(kernel: Kernel) -> None:
    given = pairs(4, 5)
    found = mixture_between(*given, *nodes(kernel), kernel.is_distance)
    expected = by_logarithms(*given, kernel)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn_like(found)
    for mine, its in zip(
        torch.autograd.grad((weights * found).sum(), given),
        torch.autograd.grad((weights * expected).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-12)


@each
def test_at_points_it_is_the_sum_of_exponentials(kernel: Kernel) -> None:
    squares = torch.tensor([0.0, 0.3, 2.0, 50.0], dtype=torch.float64, requires_grad=True)
    found = mixture_at(squares, *nodes(kernel))
    expected = sum(
        w * torch.exp(-squares / (2 * m)) for w, m in zip(*kernel.mixture(), strict=True)
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    mine, its = (torch.autograd.grad(y.sum(), squares)[0] for y in (found, expected))
    torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-12)


def between(delta: Tensor, variance: Tensor) -> Tensor:
    return mixture_between(delta, variance, *nodes(IMQ()))


def at(delta: Tensor, variance: Tensor) -> Tensor:
    return mixture_at(delta.square() + variance, *nodes(IMQ()))


@pytest.mark.parametrize("value", [between, at])
def test_derivatives_are_differentiable(value: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(value, pairs(2))
    assert torch.autograd.gradgradcheck(value, pairs(2))


@pytest.mark.parametrize("value", [between, at])
def test_many_at_once(value: Callable[[Tensor, Tensor], Tensor]) -> None:
    given = pairs(4, 2)
    torch.testing.assert_close(torch.vmap(value)(*given), value(*given))


def test_what_is_narrow_loses_no_digits_where_1_is_taken_off() -> None:
    # -1/2 (V + delta^2) / m to the first order, of which 1 + V / m knows nothing in single
    # precision
    delta, variance = torch.full((1,), 0.5), torch.full((1,), 0.25)
    found = mixture_between(delta, variance, torch.ones(1), torch.tensor([1e8]), less_one=True)
    torch.testing.assert_close(found, torch.tensor(-0.25e-8), rtol=1e-6, atol=0)


def test_a_wide_row_among_narrow_kernels_counts_for_nothing_and_not_for_nan() -> None:
    delta, variance = torch.zeros(1, 40, requires_grad=True), torch.full((1, 40), 1e12)
    variance.requires_grad_()
    value = mixture_between(delta, variance, *nodes(IMQ(), torch.float32))
    grads = torch.autograd.grad(value.sum(), [delta, variance])
    assert [t.abs().max().item() for t in (value, *grads)] == [0, 0, 0]
