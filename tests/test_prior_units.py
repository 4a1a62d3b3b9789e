"""Joints in their priors' units: transformed families, and points of auxiliary normals."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib.easyguide import EasyGuide
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import transforms

from ppl_vae.objectives import MMD, AggregateKL, Energy, InfoVAE, Stein
from ppl_vae.objectives.divergences.location_scale import location_scale

N = 400

FAMILIES: dict[str, Callable[[Tensor], Any]] = {
    "LogNormal": lambda z: dist.LogNormal(z + 3.0, 1.0 * torch.ones_like(z)),
    "LogitNormal": lambda z: dist.TransformedDistribution(
        dist.Normal(z - 1.0, torch.full_like(z, 2.0)), [transforms.SigmoidTransform()]
    ),
    "affine Laplace": lambda z: dist.TransformedDistribution(
        dist.Laplace(z, torch.ones_like(z)), [transforms.AffineTransform(2.0, -3.0)]
    ),
    "composed": lambda z: dist.TransformedDistribution(
        dist.LogNormal(z, torch.ones_like(z)), [transforms.AffineTransform(0.0, 4.0)]
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_and_value_are_inverse(name: str) -> None:
    pyro.set_rng_seed(0)
    fn = FAMILIES[name](torch.zeros(50, dtype=torch.float64))
    found = location_scale(fn)
    assert found is not None
    value = fn.sample()
    noise = found.to_noise(value)
    assert torch.allclose(found.from_noise(noise), value, atol=1e-10)
    # the density of the value is that of the noise and the map's
    leaf = noise.clone().requires_grad_()
    (slope,) = torch.autograd.grad(found.from_noise(leaf).sum(), leaf)
    base = found.noise(noise, 1).log_prob(noise[:, None])
    assert torch.allclose(fn.log_prob(value), base - slope.abs().log(), atol=1e-8)


def _pair(family: str | None, shift: float) -> tuple[Any, Any, Tensor]:
    """z ~ N(0, 1) and a guide of mean `shift`, besides a site whose guide is its prior."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if family == "Normal":
                pyro.sample("w", dist.Normal(torch.zeros(len(x)), 1.0))
            elif family is not None:
                pyro.sample("w", FAMILIES[family](torch.zeros(len(x))))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(shift)).expand(len(x))
        with pyro.plate("data", len(x)):
            if family == "Normal":
                pyro.sample("w", dist.Normal(0 * loc, 1.0))
            elif family is not None:
                pyro.sample("w", FAMILIES[family](0 * loc))
            pyro.sample("z", dist.Normal(loc, 1.0))

    return model, guide, torch.zeros(N)


@pytest.mark.parametrize("family", ["LogNormal", "LogitNormal", "composed"])
def test_a_shift_beside_a_transformed_prior_is_the_shift_beside_a_normal(family: str) -> None:
    """In noise units both joints are N(0, 1) x N(2, 1) against N(0, I): one value, no noise."""
    for divergence in (MMD(), AggregateKL()):
        found = []
        for name in ("Normal", family):
            pyro.clear_param_store()
            pyro.set_rng_seed(1)
            objective = InfoVAE(divergence, alpha=0.0, scale=2.0)
            objective.loss(*_pair(name, 2.0)[:2], torch.zeros(N))
            found.append(float(objective.terms["divergence/w+z"]))
        assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_lognormal_alone_is_compared_as_its_normal() -> None:
    """MMD of N(m, 1) and N(0, 1) under exp(-r^2 / 2): 2 / sqrt(3) (1 - exp(-m^2 / 6))."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", dist.LogNormal(torch.full((len(x),), 3.0), 1.0))
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(5.0)).expand(len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.LogNormal(loc, 1.0))

    pyro.clear_param_store()
    objective = InfoVAE(MMD(), scale=1.0)
    objective.loss(model, guide, torch.zeros(N))
    expected = 2 / math.sqrt(3) * (1 - math.exp(-(2.0**2) / 6))
    assert float(objective.terms["divergence/w"]) == pytest.approx(expected, rel=1e-4)


def test_a_normal_guide_of_a_lognormal_prior_is_compared_as_it_is() -> None:
    """It draws below 0, which has no noise: no NaN, and ancestral draws to compare with."""

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0)).expand(len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(loc, 1.0))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", dist.LogNormal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    pyro.clear_param_store()
    for divergence in (MMD(), Energy()):
        assert math.isfinite(InfoVAE(divergence).loss(model, guide, torch.zeros(N)))

    def point(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Delta(torch.full((len(x),), -1.0)))

    with pytest.raises(ValueError, match="'w' is outside the support of its prior"):
        InfoVAE(MMD()).loss(model, point, torch.zeros(N))


def test_the_score_of_a_transformed_prior_is_that_of_its_noise() -> None:
    found = []
    for name in ("Normal", "LogNormal"):
        pyro.clear_param_store()
        pyro.set_rng_seed(2)
        objective = InfoVAE(Stein(), scale=1.0)
        objective.loss(*_pair(name, 1.0)[:2], torch.zeros(N))
        found.append(float(objective.terms["divergence/w+z"]))
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def _chain(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1) + w.sum(-1), 1.0), obs=x)


class _Group(EasyGuide):
    def guide(self, x: Tensor) -> None:
        loc = pyro.param("loc", torch.randn(len(x), 5))
        scale = pyro.param("scale", torch.arange(1.0, 6) / 5)
        group = self.group(match="w|z")
        with self.plate("data", len(x)):
            group.sample("aux", dist.Normal(loc, scale).to_event(1))


def _by_hand(loc: Tensor, scale: Tensor) -> Callable[[Tensor], None]:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(loc[:, :2], scale[..., :2]).to_event(1))
            pyro.sample("z", dist.Normal(loc[:, 2:], scale[..., 2:]).to_event(1))

    return guide


def _value_and_gradient(guide: Any, x: Tensor, on: Tensor) -> tuple[float, Tensor]:
    objective = InfoVAE(MMD(), alpha=0.0, scale=2.0)
    pyro.set_rng_seed(0)
    objective.differentiable_loss(_chain, guide, x)
    pyro.set_rng_seed(0)
    without = InfoVAE(MMD(), alpha=0.0, scale=1.0)
    loss = objective.differentiable_loss(_chain, guide, x) / len(x)
    pyro.set_rng_seed(0)
    loss = loss - without.differentiable_loss(_chain, guide, x) / len(x)
    (gradient,) = torch.autograd.grad(loss, on)
    return float(objective.terms["divergence/w+z"]), gradient


def test_codes_of_easyguide_and_autonormal_are_integrated() -> None:
    """Their codes are points of an auxiliary normal: the divergence is that of a guide written
    with the normals themselves, to rounding, whatever the noise."""
    x = torch.randn(30, generator=torch.Generator().manual_seed(0))
    pyro.clear_param_store()
    easy = _Group(_chain)
    easy(x)
    loc, scale = (pyro.param(name).unconstrained() for name in ("loc", "scale"))
    found, slope = _value_and_gradient(easy, x, loc)
    expected, wanted = _value_and_gradient(_by_hand(loc, scale), x, loc)
    assert found == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(slope, wanted, atol=1e-6)

    auto = AutoNormal(_chain, init_scale=0.7)
    auto(x)
    with torch.no_grad():
        auto.locs.w_unconstrained.copy_(torch.randn(30, 2))
        auto.locs.z_unconstrained.copy_(torch.randn(30, 3))
    parts = [auto.locs.w_unconstrained, auto.locs.z_unconstrained]
    found, slope = _value_and_gradient(auto, x, parts[1])
    loc = torch.cat([part.detach() for part in parts], 1).requires_grad_()
    hand = _by_hand(loc, torch.full((5,), 0.7))
    expected, wanted = _value_and_gradient(hand, x, loc)
    assert found == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(slope, wanted[:, 2:], atol=1e-6)


def test_two_points_of_the_same_entries_stay_samples() -> None:
    """w = z = u is degenerate: no covariance of independent blocks is right for it."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            u = pyro.sample(
                "u", dist.Normal(loc.expand(len(x)), 1.0), infer={"is_auxiliary": True}
            )
            pyro.sample("w", dist.Delta(u))
            pyro.sample("z", dist.Delta(u))

    pyro.clear_param_store()
    objective = InfoVAE(MMD(), scale=1.0)
    values = []
    for seed in range(2):
        pyro.set_rng_seed(seed)
        objective.loss(model, guide, torch.zeros(N))
        values.append(float(objective.terms["divergence/w+z"]))
    assert values[0] != values[1]
