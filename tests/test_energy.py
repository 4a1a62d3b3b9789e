"""The energy distance against its closed form between Gaussians."""

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from gaussians import MU, V, derivative, deviation, estimates, slopes, standard
from scipy.special import hyp1f1
from torch import Tensor

from ppl_vae.objectives import AggregatePosterior, Energy
from ppl_vae.objectives.divergences.energy import _Distance

pytestmark = pytest.mark.usefixtures("double")


def mean_distance(d: int, shift: float, variance: float) -> float:
    """E |z - y| for z - y ~ N(shift, variance)^d: the mean of a noncentral chi."""
    root = math.sqrt(2 * variance) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    return root * float(hyp1f1(-0.5, d / 2, -d * shift**2 / (2 * variance)))


def population(d: int, mu: float = MU) -> float:
    within = mean_distance(d, 0, 2 * V) + mean_distance(d, 0, 2)
    return 2 * mean_distance(d, mu, V + 1) - within


ESTIMATORS: dict[str, dict[str, Any]] = {
    "sampled": {"prior": "sampled", "noise": "sampled"},
    "closed prior": {"prior": "closed", "noise": "sampled"},
    "integrated": {"prior": "sampled", "noise": "integrated", "pairs": "all"},
    "both": {"prior": "closed", "noise": "integrated", "pairs": "all"},
    "shifts": {"prior": "closed", "noise": "integrated", "pairs": 5},
}


@pytest.mark.parametrize("d", [1, 2, 40])
@pytest.mark.parametrize("n", [2, 20])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_unbiased(estimator: str, n: int, d: int) -> None:
    values = estimates(Energy(**ESTIMATORS[estimator]), n, d, repeats=400)
    assert deviation(values, population(d)) < 4.5


@pytest.mark.parametrize("prior", ["sampled", "closed"])
def test_v_statistic_is_biased_as_stated(prior: Any) -> None:
    n, d = 5, 3
    values = estimates(Energy(prior, "sampled", "V"), n, d, repeats=1000)
    bias = mean_distance(d, 0, 2 * V) / n + mean_distance(d, 0, 2) / n * (prior == "sampled")
    assert deviation(values, population(d)) > 4.5
    assert deviation(values, population(d) + bias) < 4.5


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_is_the_population_s(estimator: str) -> None:
    found = slopes(Energy(**ESTIMATORS[estimator]), 10, 3, repeats=600)
    assert deviation(found, derivative(lambda mu: population(3, mu))) < 4.5


def test_mixture_is_the_distance() -> None:
    r = torch.cat([torch.zeros(1), torch.logspace(math.log10(0.02), 2, 200)])
    weights, multipliers = (torch.tensor(v) for v in _Distance().mixture((1.0, 2.0)))
    for half, scale in ((slice(0, len(weights) // 2), 1.0), (slice(len(weights) // 2, None), 2.0)):
        exponents = -(r[:, None] ** 2) / (2 * multipliers[half])
        mixed = (weights[half] * torch.expm1(exponents)).sum(-1)
        torch.testing.assert_close(-mixed * math.sqrt(scale), r, rtol=1e-4, atol=0)


def test_it_is_the_mean_distance_of_points() -> None:
    z, y = torch.randn(6, 4), torch.randn(9, 4)

    def mean(a: Tensor) -> Tensor:
        return torch.pdist(a).mean()

    expected = 2 * torch.cdist(z, y).mean() - mean(z) - mean(y)
    torch.testing.assert_close(Energy()(AggregatePosterior.of(z, y)), expected)


def test_gradient_stays_where_an_rbf_s_is_gone() -> None:
    codes = (100 + torch.randn(10, 3)).requires_grad_()
    value = Energy()(AggregatePosterior.of(codes, standard(3)))
    (grad,) = torch.autograd.grad(value, codes)
    total = grad.sum(0)
    torch.testing.assert_close(total, torch.full((3,), 2 / math.sqrt(3)), rtol=1e-2, atol=0)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4, 1e8])
def test_integrated_distance_at_any_size(size: float) -> None:
    """Codes of any size against a narrow prior: the distance, and a pull of one each."""
    means = (size * torch.eye(3)).requires_grad_()
    q = dist.Normal(means, 1e-3 * size).to_event(1)
    prior = dist.Normal(torch.zeros(3), 1e-3 * size).to_event(1)
    value = Energy()(AggregatePosterior.of(q, prior))
    expected = (2 - math.sqrt(2)) * size - 2e-3 * size * mean_distance(3, 0, 1.0) / math.sqrt(2)
    assert value.item() == pytest.approx(expected, rel=2e-3)
    (pull,) = torch.autograd.grad(value, means)
    # Of 2 E|z - y| - E|z - z'|, on the mean of one row of three.
    assert pull[0, 0].item() == pytest.approx(2 / 3 - math.sqrt(2) / 3, rel=1e-3)


def test_coinciding_rows_have_a_finite_gradient() -> None:
    codes = torch.zeros(5, 2, requires_grad=True)
    Energy()(AggregatePosterior.of(codes, torch.zeros(4, 2))).backward()
    assert codes.grad is not None
    assert codes.grad.isfinite().all()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="Energy needs two rows or more"):
        Energy()(AggregatePosterior.of(torch.randn(1, 2), standard(2)))
    with pytest.raises(ValueError, match="Energy prior='exact': use one of auto"):
        Energy(prior="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Energy noise='integrated' needs a guide"):
        Energy(noise="integrated")(AggregatePosterior.of(torch.randn(4, 2), standard(2)))
