"""MMD by random features: unbiased over rows and frequencies, linear in the rows."""

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from gaussians import MU, V, derivative, deviation, estimates, rows, slopes, standard, together
from syncs import Syncs
from torch import Tensor

from ppl_vae.objectives import (
    IMQ,
    MMD,
    RBF,
    AggregatePosterior,
    FourierMMD,
    Kernel,
    Laplacian,
    MultiScale,
    RationalQuadratic,
)

pytestmark = pytest.mark.usefixtures("double")


def overlap(d: int, total: float, shift: float = 0.0) -> float:
    """E exp(-r^2 / 2d) for r ~ N(shift, total)^d."""
    return (d / (d + total)) ** (d / 2) * math.exp(-d * shift**2 / 2 / (d + total))


def population(d: int, mu: float = MU) -> float:
    return overlap(d, 2 * V) - 2 * overlap(d, V + 1, mu) + overlap(d, 2)


ESTIMATORS: dict[str, dict[str, Any]] = {
    "sampled": {"prior": "sampled", "noise": "sampled"},
    "closed prior": {"prior": "closed", "noise": "sampled"},
    "integrated": {"prior": "sampled", "noise": "integrated"},
    "both": {"prior": "closed", "noise": "integrated"},
}


@pytest.mark.parametrize("d", [1, 2, 10])
@pytest.mark.parametrize("n", [2, 20])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_unbiased(estimator: str, n: int, d: int) -> None:
    divergence = FourierMMD(RBF(), 64, **ESTIMATORS[estimator])
    assert deviation(estimates(divergence, n, d, repeats=1000), population(d)) < 4.5


@pytest.mark.parametrize("prior", ["sampled", "closed"])
def test_v_statistic_is_biased_as_stated(prior: Any) -> None:
    n, d = 5, 3
    values = estimates(FourierMMD(RBF(), 64, prior, "sampled", "V"), n, d, repeats=1500)
    bias = (1 - overlap(d, 2 * V)) / n + (1 - overlap(d, 2)) / n * (prior == "sampled")
    assert deviation(values, population(d)) > 4.5
    assert deviation(values, population(d) + bias) < 4.5


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_is_the_population_s(estimator: str) -> None:
    found = slopes(FourierMMD(RBF(), 64, **ESTIMATORS[estimator]), 10, 3, repeats=1000)
    assert deviation(found, derivative(lambda mu: population(3, mu))) < 4.5


@pytest.mark.parametrize("statistic", ["U", "V"])
@pytest.mark.parametrize(
    "kernel", [RBF(), IMQ(), Laplacian(), RationalQuadratic(alpha=0.5), MultiScale()], ids=repr
)
def test_mean_over_frequencies_is_mmd(kernel: Kernel, statistic: Any) -> None:
    """Of the same points, weighted and grouped: every kernel's spectral density is its own."""
    q = AggregatePosterior.of(
        torch.randn(8, 2) + 0.5,
        torch.randn(9, 2),
        weights=torch.rand(8),
        groups=torch.tensor([0, 0, 1, 2, 3, 3, 3, 4]),
    )
    exact = MMD(kernel, statistic=statistic)(q)
    features = FourierMMD(kernel, 128, statistic=statistic)
    values = together(lambda _: features(q), torch.zeros(800), 128 * 9)
    assert deviation(values, exact) < 4.5


def test_full_covariance_is_integrated() -> None:
    means, factor = torch.randn(12, 3), torch.randn(12, 3, 3).tril(-1) + 0.5 * torch.eye(3)
    q = dist.MultivariateNormal(means, scale_tril=factor)
    features = FourierMMD(features=64)
    values = together(
        lambda _: features(AggregatePosterior.of(q, standard(3))), torch.zeros(1000), 64 * 12
    )
    assert deviation(values, MMD(pairs="all")(AggregatePosterior.of(q, standard(3)))) < 4.5
    assert features.estimator["z"].endswith("integrated over 64 random frequencies")


def test_more_features_less_variance() -> None:
    """At fixed rows the frequencies are all that varies: 1/R."""
    q = AggregatePosterior.of(torch.randn(50, 10), standard(10))
    few, many = (
        together(lambda _, r=r: FourierMMD(features=r)(q), torch.zeros(1000), 50 * r).var()
        for r in (16, 256)
    )
    # A ratio of two sample variances of 1,000 has a relative standard error near 2 / sqrt(1000),
    # more where they are not normal.
    assert few / many == pytest.approx(16, rel=0.5)


def test_single_precision_and_no_waiting() -> None:
    torch.set_default_dtype(torch.float32)
    codes = rows(1000, 10).rsample().requires_grad_()
    q = AggregatePosterior.of(codes, standard(10))
    features = FourierMMD(features=2048)
    features(q)  # constants are made once
    with Syncs():
        value = features(q)
        value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(MMD()(q).item(), rel=0.2)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="FourierMMD features=0"):
        FourierMMD(features=0)
    with pytest.raises(ValueError, match="FourierMMD needs two rows or more"):
        FourierMMD()(AggregatePosterior.of(torch.randn(1, 2), standard(2)))


def test_one_row_with_a_v_statistic() -> None:
    q = AggregatePosterior.of(torch.zeros(1, 2), torch.zeros(1, 2))
    value: Tensor = FourierMMD(statistic="V")(q)
    assert value.item() == pytest.approx(0, abs=1e-12)
