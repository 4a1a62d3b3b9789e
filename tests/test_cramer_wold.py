"""The Cramér-Wold distance against its definition and its closed form between Gaussians."""

import math
from typing import Any

import mpmath
import pyro.distributions as dist
import pytest
import torch
from gaussians import MU, V, derivative, deviation, estimates, slopes, standard
from scipy.special import hyp1f1
from torch import Tensor

from ppl_vae.objectives import AggregatePosterior, CramerWold
from ppl_vae.objectives.divergences.cramer_wold import _Projected

pytestmark = pytest.mark.usefixtures("double")

GAMMA = 0.3


def overlap(d: int, squared_shift: float, variance: float, gamma: float = GAMMA) -> float:
    """E over directions of the inner product of the smoothed densities of two projections."""
    total = variance + 2 * gamma
    return float(hyp1f1(0.5, d / 2, -squared_shift / (2 * total))) / math.sqrt(2 * math.pi * total)


def population(d: int, mu: float = MU) -> float:
    return overlap(d, 0, 2 * V) - 2 * overlap(d, d * mu**2, V + 1) + overlap(d, 0, 2)


ESTIMATORS: dict[str, dict[str, Any]] = {
    "sampled": {"prior": "sampled", "noise": "sampled"},
    "closed prior": {"prior": "closed", "noise": "sampled"},
    "integrated": {"prior": "sampled", "noise": "integrated", "pairs": "all"},
    "both": {"prior": "closed", "noise": "integrated", "pairs": "all"},
    "shifts": {"prior": "closed", "noise": "integrated", "pairs": 5},
}


@pytest.mark.parametrize("d", [1, 2, 3, 40])
@pytest.mark.parametrize("n", [2, 20])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_unbiased(estimator: str, n: int, d: int) -> None:
    divergence = CramerWold(GAMMA, **ESTIMATORS[estimator])
    values = estimates(divergence, n, d, repeats=1000 if n == 2 else 300)
    assert deviation(values, population(d)) < 4.5


@pytest.mark.parametrize("prior", ["sampled", "closed"])
def test_v_statistic_is_biased_as_stated(prior: Any) -> None:
    n, d = 5, 3
    values = estimates(CramerWold(GAMMA, prior, "sampled", "V"), n, d, repeats=1000)
    peak = 1 / math.sqrt(4 * math.pi * GAMMA)
    bias = (peak - overlap(d, 0, 2 * V)) / n
    bias += (peak - overlap(d, 0, 2)) / n * (prior == "sampled")
    assert deviation(values, population(d)) > 4.5
    assert deviation(values, population(d) + bias) < 4.5


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_is_the_population_s(estimator: str) -> None:
    found = slopes(CramerWold(GAMMA, **ESTIMATORS[estimator]), 10, 3, repeats=600)
    assert deviation(found, derivative(lambda mu: population(3, mu))) < 4.5


@pytest.mark.parametrize("d", [1, 2, 3, 10, 40, 200])
def test_kernel_is_the_hypergeometric_function(d: int) -> None:
    """Its slope too, of which a rule that is good in value alone leaves far codes nothing."""
    s = torch.cat([torch.zeros(1), torch.logspace(-3, 6, 50)]).requires_grad_()
    value = _Projected(d)(2 * 0.7 * s, 0.7)
    (slope,) = torch.autograd.grad(value.sum(), s)
    exact = torch.tensor([float(mpmath.hyp1f1(0.5, d / 2, -x)) for x in s.tolist()])
    by_hand = torch.tensor([float(mpmath.hyp1f1(1.5, d / 2 + 1, -x)) / -d for x in s.tolist()])
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope, by_hand, rtol=1e-5, atol=0)


def test_far_codes_are_pulled() -> None:
    """n = 2,000 codes at a distance of 40: the pull of the closed form, in single precision."""
    torch.set_default_dtype(torch.float32)
    n, d, r = 2000, 10, 40.0
    codes = (r / math.sqrt(d) * torch.ones(n, d)).requires_grad_()
    CramerWold()(AggregatePosterior.of(codes, standard(d))).backward()
    assert codes.grad is not None
    found = -codes.grad.sum(0).norm().item()
    gamma = (4 / (3 * n)) ** 0.4
    exact = derivative(lambda shift: -2 * overlap(d, shift**2, 1, gamma), r)
    assert -found == pytest.approx(exact, rel=1e-3)


def test_definition_in_the_plane() -> None:
    """Densities of smoothed projections, integrated over the line and over directions."""
    z, y = torch.randn(4, 2), torch.randn(5, 2)
    angles = (torch.arange(400) + 0.5) / 400 * math.pi
    theta = torch.stack([angles.cos(), angles.sin()], 1)
    grid = torch.linspace(-9, 9, 2001)

    def density(points: Tensor) -> Tensor:
        projected = (points @ theta.T)[..., None]
        return dist.Normal(projected, math.sqrt(GAMMA)).log_prob(grid).exp().mean(0)

    squares = (density(z) - density(y)).square().sum(-1) * (grid[1] - grid[0])
    value = CramerWold(GAMMA, statistic="V")(AggregatePosterior.of(z, y))
    torch.testing.assert_close(value, squares.mean(), rtol=1e-6, atol=0)


def test_silverman_counts_rows_with_weight() -> None:
    codes, prior = torch.randn(9, 2), torch.randn(12, 2)
    keep = torch.tensor([0, 3, 4, 8])
    weights = torch.zeros(9)
    weights[keep] = 2.5
    masked = CramerWold()(AggregatePosterior.of(codes, prior, weights=weights))
    dropped = CramerWold()(AggregatePosterior.of(codes[keep], prior))
    torch.testing.assert_close(masked, dropped)
    fixed = CramerWold((4 / (3 * 4)) ** 0.4)(AggregatePosterior.of(codes[keep], prior))
    torch.testing.assert_close(dropped, fixed)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="CramerWold gamma='scott': use 'silverman'"):
        CramerWold("scott")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="CramerWold gamma=0: it must be positive"):
        CramerWold(0)
    with pytest.raises(ValueError, match="CramerWold needs two rows or more"):
        CramerWold()(AggregatePosterior.of(torch.randn(1, 2), standard(2)))
