"""The sliced Wasserstein distance against its own expectation at finite n."""

import math
from itertools import pairwise
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from gaussians import MU, V, deviation, estimates, rows, standard
from scipy.integrate import quad
from scipy.stats import beta, norm
from syncs import Syncs
from torch import Tensor

from ppl_vae.objectives import AggregatePosterior, SlicedWasserstein

pytestmark = pytest.mark.usefixtures("double")


def order_statistics(n: int) -> Tensor:
    """Expected order statistics of n standard normals, by quadrature over their quantile."""
    values = [
        quad(lambda u, i=i: norm.ppf(u) * beta.pdf(u, i, n - i + 1), 0, 1, limit=200)[0]
        for i in range(1, n + 1)
    ]
    return torch.tensor(values)


def quantile_integrals(n: int) -> Tensor:
    ends = torch.linspace(0, 1, n + 1)
    density = torch.tensor(norm.pdf(norm.ppf(ends.numpy())))
    return density[:-1] - density[1:]


def overlap(n: int, m: int) -> float:
    """E of the integral of the product of the quantile functions of n and of m normals."""
    x, y = order_statistics(n), order_statistics(m)
    ends = sorted({i / n for i in range(n + 1)} | {j / m for j in range(m + 1)})
    total = 0.0
    for low, high in pairwise(ends):
        middle = (low + high) / 2
        total += (high - low) * float(x[int(middle * n)] * y[int(middle * m)])
    return total


def expectation(n: int, m: int | None) -> float:
    """E of the estimate for q = N(MU, V I), in any d: a projection has E mean^2 = MU^2."""
    with_prior = float(order_statistics(n) @ quantile_integrals(n)) if m is None else overlap(n, m)
    return MU**2 + V + 1 - 2 * math.sqrt(V) * with_prior


@pytest.mark.parametrize("d", [1, 5])
@pytest.mark.parametrize(
    ("n", "m"), [(1, None), (2, None), (20, None), (20, 20), (20, 30), (3, 1)]
)
def test_expectation_at_finite_n(n: int, m: int | None, d: int) -> None:
    prior: Any = "quantiles" if m is None else "samples"
    sliced = SlicedWasserstein(16, prior=prior, draws=m)
    values = estimates(sliced, n, d, repeats=1000)
    assert deviation(values, expectation(n, m)) < 4.5
    population = MU**2 + (math.sqrt(V) - 1) ** 2
    assert deviation(values, population) > 4.5  # the bias is no rounding


def test_the_docstring_s_bias() -> None:
    x = order_statistics(100)
    assert 2 - 2 * float(x @ quantile_integrals(100)) == pytest.approx(0.030, abs=0.0005)
    assert 2 - 2 * float(x @ x) / 100 == pytest.approx(0.055, abs=0.0005)


def test_one_dimension_sorts() -> None:
    z, y = torch.randn(9, 1), torch.randn(9, 1)
    for power in (1.0, 2.0, 3.0):
        value = SlicedWasserstein(3, power=power)(AggregatePosterior.of(z, y))
        by_hand = (z.sort(0).values - y.sort(0).values).abs().pow(power).mean()
        torch.testing.assert_close(value, by_hand)


def test_quantiles_are_the_limit_of_samples() -> None:
    """Any Gaussian prior, weighted rows: the distance to a fine grid of quantiles."""
    n, m = 7, 200_000
    codes, weights = torch.randn(n, 1), torch.rand(n)
    prior = dist.Normal(torch.tensor([0.7]), 1.6).to_event(1)
    grid = prior.base_dist.icdf(((torch.arange(m) + 0.5) / m)[:, None])
    exact = SlicedWasserstein(2)(AggregatePosterior.of(codes, prior, weights=weights))
    fine = SlicedWasserstein(2)(AggregatePosterior.of(codes, grid, weights=weights))
    torch.testing.assert_close(exact, fine, rtol=0, atol=1e-4)


def test_full_covariance_prior() -> None:
    """A code drawn from the prior in bulk is near it, and far from its mirror image."""
    factor = torch.tensor([[1.0, 0.0], [1.5, 0.3]])
    prior = dist.MultivariateNormal(torch.tensor([1.0, -1.0]), scale_tril=factor)
    codes = prior.sample((5000,))
    near = SlicedWasserstein(prior="quantiles")(AggregatePosterior.of(codes, prior))
    assert near < 0.01
    far = SlicedWasserstein(prior="quantiles")(AggregatePosterior.of(codes.flip(1), prior))
    assert far > 1


@pytest.mark.parametrize("prior", ["quantiles", "samples"])
def test_gradient(prior: Any) -> None:
    codes = torch.randn(6, 3, requires_grad=True)

    def value(codes: Tensor) -> Tensor:
        torch.manual_seed(3)
        return SlicedWasserstein(5, prior=prior)(AggregatePosterior.of(codes, standard(3)))

    assert torch.autograd.gradcheck(value, codes)


def test_integer_weights_are_repeated_rows() -> None:
    codes, prior = torch.randn(3, 2), torch.randn(6, 2)
    sliced = SlicedWasserstein()
    torch.manual_seed(0)
    weighted = sliced(AggregatePosterior.of(codes, prior, weights=torch.tensor([1.0, 2.0, 3.0])))
    torch.manual_seed(0)
    repeated = codes.repeat_interleave(torch.tensor([1, 2, 3]), 0)
    torch.testing.assert_close(weighted, sliced(AggregatePosterior.of(repeated, prior)))


@pytest.mark.parametrize("prior", ["quantiles", "samples"])
def test_single_precision_and_no_waiting(prior: Any) -> None:
    torch.set_default_dtype(torch.float32)
    codes = rows(1000, 10).rsample().requires_grad_()
    q = AggregatePosterior.of(codes, standard(10))
    sliced = SlicedWasserstein(prior=prior)
    torch.manual_seed(0)
    with Syncs():
        value = sliced(q)
        value.backward()
    assert value.dtype == torch.float32
    assert codes.grad is not None
    assert codes.grad.isfinite().all()
    assert value.item() == pytest.approx(MU**2 + (math.sqrt(V) - 1) ** 2, abs=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlicedWasserstein(prior="normal"), "use one of auto, samples, quantiles"),  # type: ignore[arg-type]
        (lambda: SlicedWasserstein(0), "directions=0"),
        (lambda: SlicedWasserstein(power=0.5), "power=0.5: 1 or more"),
        (lambda: SlicedWasserstein(prior="quantiles", power=1), "closed form at power=2"),
        (
            lambda: SlicedWasserstein(prior="quantiles")(
                AggregatePosterior.of(torch.randn(4, 2), torch.randn(4, 2))
            ),
            "needs a Gaussian prior",
        ),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
