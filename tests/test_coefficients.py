"""Coefficients: what 0 takes out, schedules, limits, and which sites a weight is on."""

import copy
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS
from probe import D, N, data, guide, model
from pyro.infer import SVI
from torch import Tensor

from ppl_vae.objectives import (
    GECO,
    MMD,
    RBF,
    TCVAE,
    WAE,
    Autoencoder,
    BetaVAE,
    InfoVAE,
    Objective,
    Penalty,
    SquaredError,
)


def test_a_zero_coefficient_takes_its_term_out() -> None:
    """A uniform prior scores -inf outside its box: at alpha = 1 it is never asked."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(-torch.ones(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def delta(x: Tensor) -> None:
        a = pyro.param("a", torch.tensor(3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(a * x).to_event(1))

    for encoder in (guide, delta):
        for objective in (InfoVAE(MMD(), alpha=1, scale=5.0), Autoencoder(), WAE(MMD())):
            pyro.clear_param_store()
            svi = SVI(model, encoder, pyro.optim.Adam({"lr": 0.01}), objective)
            assert abs(svi.step(data())) < float("inf")
    with pytest.raises(FloatingPointError, match="term 'rate/z' is inf at step"):
        BetaVAE(1.0).loss_and_grads(model, guide, data())


def test_a_scheduled_coefficient_at_zero_keeps_its_term() -> None:
    objective = BetaVAE(lambda step: 0.0 * step)
    objective.differentiable_loss(model, guide, data())
    pyro.set_rng_seed(0)
    a = objective.differentiable_loss(model, guide, data())
    assert "rate/z" in objective.terms
    pyro.set_rng_seed(0)
    torch.testing.assert_close(a, Autoencoder().differentiable_loss(model, guide, data()))


def test_schedules_count_training_steps() -> None:
    objective = BetaVAE(lambda step: 0.5 * step)
    seen = []
    for _ in range(3):
        pyro.set_rng_seed(0)
        seen.append(objective.loss_and_grads(model, guide, data()))
        objective.loss(model, guide, data())  # does not move the step
    assert seen[2] - seen[1] == pytest.approx(seen[1] - seen[0], rel=1e-5)
    assert seen[1] > seen[0]
    assert int(objective.step) == 3


def test_a_copy_of_a_scheduled_objective_has_its_own_schedule() -> None:
    from ppl_vae.objectives import Linear

    first = BetaVAE(Linear(over=0.5))
    first.plan(100)
    second = copy.deepcopy(first)
    second.plan(1000)
    assert float(second.alpha(torch.tensor(100))) == pytest.approx(0.8)  # type: ignore[operator]
    assert float(first.alpha(torch.tensor(100))) == pytest.approx(0.0)  # type: ignore[operator]


def test_named_limits_coincide() -> None:
    def value(objective: Objective) -> Tensor:
        pyro.set_rng_seed(0)
        return objective.differentiable_loss(model, guide, data())

    mmd = MMD(RBF(1.0))
    torch.testing.assert_close(value(InfoVAE(alpha=1, scale=0)), value(Autoencoder()))
    torch.testing.assert_close(value(InfoVAE(alpha=-3, scale=4)), value(BetaVAE(4.0)))
    torch.testing.assert_close(value(BetaVAE(0.0)), value(Autoencoder()))
    both = value(InfoVAE(mmd, alpha=0.25, scale=8.0))
    parts = InfoVAE(mmd, alpha=0.25, scale=8.0)
    value(parts)
    t = parts.terms
    expected = t["reconstruction/x"] + 0.75 * t["rate/z"] + 7.25 * t["divergence/z"]
    torch.testing.assert_close(both, N * expected)


def test_auxiliary_sites_weigh_as_the_latents_on_them() -> None:
    """AutoNormal's density is in an auxiliary site: alpha takes it with the rest of the KL."""
    x = data()
    auto = pyro.infer.autoguide.AutoNormal(model, init_scale=0.4)
    auto(x)
    loc = auto.median(x)["z"].detach()

    def by_hand(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.4).to_event(1))

    for beta in (0.0, 1.0, 4.0):
        both = []
        for encoder in (auto, by_hand):
            objective = BetaVAE(beta)
            losses = [objective.loss(model, encoder, x) for _ in range(150)]
            both.append(torch.tensor(losses))
        a, b = both
        assert abs(a.mean() - b.mean()) < 4.5 * ((a.var() + b.var()) / 150) ** 0.5


def test_an_auxiliary_site_behind_two_weights_is_refused() -> None:
    pair = PAIRS["two_latents"]()
    joint = pyro.infer.autoguide.AutoMultivariateNormal(pair.model)
    with pytest.raises(
        ValueError, match=r"depend on the guide's auxiliary site .* have different"
    ):
        BetaVAE(4.0, sites=["z1"]).differentiable_loss(pair.model, joint, *pair.args)
    BetaVAE(4.0).differentiable_loss(pair.model, joint, *pair.args)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: GECO(SquaredError()), "GECO: target"),
        (lambda: BetaVAE(SquaredError()), "BetaVAE: beta"),
        (lambda: InfoVAE(MMD(), alpha=SquaredError()), "InfoVAE: alpha"),
        (lambda: InfoVAE(MMD(), scale=SquaredError()), "InfoVAE: scale"),
        (lambda: TCVAE(size=10, total_correlation=SquaredError()), "TCVAE: total_correlation"),
        (lambda: Penalty(SquaredError()), "Penalty: weight"),
    ],
)
def test_a_function_of_something_else_is_no_coefficient(make: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is .*: give a number, a schedule"):
        make()
