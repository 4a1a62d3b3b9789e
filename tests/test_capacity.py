"""The rate follows its capacity; a bound on the reconstruction is met at the least rate."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.objectives import BetaVAE, CapacityVAE, SquaredError
from ppl_vae.reproductions import capacity
from ppl_vae.reproductions.capacity import HOLDS, MULTIPLIERS, LinearWorld, follow, meet


@pytest.mark.parametrize("multiplier", [0.25, 1.0, 4.0])
def test_the_best_encoder_is_where_the_lagrangian_is_flat(multiplier: float) -> None:
    """What the experiment holds GECO against: no code's mean or variance lowers R + lambda D."""
    world = LinearWorld()
    signal = multiplier * world.weight / world.noise**2
    variance = 1 / (1 + (signal * world.weight).sum(0))
    mean = world.x @ signal * variance
    reconstruction, rate = world.figures(mean, variance)
    assert (reconstruction, rate) == world.best(multiplier)
    least = rate + multiplier * reconstruction
    for change in (-0.05, 0.05):
        for k in range(3):
            other = torch.ones(3, dtype=torch.float64)
            other[k] += change
            for moved in ((mean * other, variance), (mean, variance * other)):
                d, r = world.figures(*moved)
                assert r + multiplier * d > least
    assert world.least_rate(reconstruction) == pytest.approx(rate, rel=1e-9)


def test_figures_are_the_elbo_s_terms() -> None:
    """Rate and reconstruction in nats per datum, the latter up to the noise of 400 draws."""
    world = LinearWorld()
    reconstruction, rate = world.found()
    objective = BetaVAE(1.0)
    draws = []
    for seed in range(400):
        pyro.set_rng_seed(seed)
        objective.loss(world.model, world.guide, world.x)
        draws.append(float(objective.terms["reconstruction/x"]))
    assert float(objective.terms["rate/z"]) == pytest.approx(rate, rel=1e-9)
    values = torch.tensor(draws)
    error = float(values.std()) / math.sqrt(len(draws))
    assert float(values.mean()) == pytest.approx(reconstruction, abs=4.5 * error)


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_geco_meets_its_bound_at_the_least_rate(multiplier: float) -> None:
    pyro.set_rng_seed(0)
    world = LinearWorld()
    tolerance, least = world.best(multiplier)
    found = meet(world, tolerance)
    reconstruction, rate = world.found()
    assert reconstruction == pytest.approx(tolerance, abs=0.05)
    assert found == pytest.approx(multiplier, rel=0.1)
    assert 0 <= rate - world.least_rate(reconstruction) < 0.01
    # along the curve the rate moves by the multiplier times the reconstruction's error
    assert rate == pytest.approx(least, abs=0.05 * multiplier + 0.01)


def test_geco_with_a_cost() -> None:
    """r^2 is 2 s^2 (c - log p): the bound is 2 s^2 times as large, the multiplier 1 / (2 s^2)."""
    pyro.set_rng_seed(0)
    world = LinearWorld()
    tolerance, _ = world.best(0.25)
    constant = 0.5 * 6 * math.log(2 * math.pi * world.noise**2)
    unit = 2 * world.noise**2
    found = meet(world, unit * (tolerance - constant), cost=SquaredError())
    reconstruction, rate = world.found()
    assert reconstruction == pytest.approx(tolerance, abs=0.05)
    assert found == pytest.approx(0.25 / unit, rel=0.1)
    assert 0 <= rate - world.least_rate(reconstruction) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hold", "steps", "lr"), [("dual variable", 640, 3e-4), ("penalty", 1500, 1.5e-4)]
)
def test_the_rate_follows_its_capacity(hold: str, steps: int, lr: float) -> None:
    curve = follow(HOLDS[hold](), steps=steps, lr=lr)
    targets = [target for *_, target in curve[:: steps // 5]]
    assert targets == pytest.approx([0, 6.25, 12.5, 18.75, 25])
    assert max(abs(rate - target) for _, rate, target in curve[steps // 10 :]) < 0.3


def test_the_measures_of_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a curve and encoders that are known; the two tests above train them."""

    def curve(*_: object, **__: object) -> list[tuple[int, float, float]]:
        return [(t, t + (9 if t < 10 else 1 / 4 if t < 99 else 1 / 8), t) for t in range(100)]

    monkeypatch.setattr(capacity, "follow", curve)
    monkeypatch.setattr(capacity, "meet", lambda *_, **__: 0.5)  # the encoder stays where it was
    found = capacity.held(seed=0, hold="penalty", steps=100, lr=1e-3)
    assert (found["largest distance"], found["last distance"]) == (1 / 4, 1 / 8)
    for multiplier in MULTIPLIERS:
        bound = capacity.bound(seed=0, multiplier=multiplier, steps=1)
        numbers = bound["reconstruction"], bound["rate"], bound["multiplier"]
        assert numbers == pytest.approx((*LinearWorld().best(1.0), 0.5))
        truth = bound["bound"], bound["least"], bound["truth"]
        assert truth == (*LinearWorld().best(multiplier), multiplier)


def test_the_rate_of_sites_masked_unlike() -> None:
    """A chain padded on the left: a datum counts where any of its sites does."""

    def program(x: Tensor, observed: bool) -> None:
        mask = torch.tensor([[True, True], [True, True], [False, True], [False, False]])
        with pyro.plate("data", 4):
            for t in range(2):
                with poutine.mask(mask=mask[:, t]):
                    z = pyro.sample(f"z{t}", dist.Normal(0.0 if observed else x[:, t], 1.0))
                    if observed:
                        pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])

    x = 1 + torch.arange(8.0).reshape(4, 2)
    kl = (x[:2].square().sum() + x[2, 1].square()) / 2
    for objective, name in ((CapacityVAE(1.0), "constraint/rate"), (BetaVAE(4.0), None)):
        objective.loss(lambda x: program(x, True), lambda x: program(x, False), x)
        rates = sum(objective.terms[f"rate/z{t}"] for t in range(2))
        torch.testing.assert_close(rates, kl / 3)
        if name is not None:
            torch.testing.assert_close(objective.terms[name], kl / 3 - 1)
