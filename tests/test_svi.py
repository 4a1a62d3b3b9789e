"""Objectives in Pyro's SVI and under torch's optimisers."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS
from probe import D, Probe, data, guide, model
from pyro.infer import SVI
from syncs import Syncs, no_waiting
from torch import Tensor, nn

from ppl_vae.objectives import (
    MMD,
    WAE,
    Autoencoder,
    BetaVAE,
    InfoVAE,
    Objective,
)
from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior


class WithNet(Probe):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(D, 1)

    def forward(self, q: AggregatePosterior) -> Tensor:
        return self.net(q.codes).square().mean()


def test_registers_itself_in_svi() -> None:
    objective = InfoVAE(WithNet(), scale=2.0)
    before = objective.divergences[0].net.weight.detach().clone()
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), objective).step(data())
    assert not torch.equal(before, objective.divergences[0].net.weight)


def test_two_objectives_both_train() -> None:
    first, second = InfoVAE(WithNet(), scale=2.0), InfoVAE(WithNet(), scale=2.0)
    for objective in (first, second):
        before = objective.divergences[0].net.weight.detach().clone()
        SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), objective).step(data())
        assert not torch.equal(before, objective.divergences[0].net.weight)
    assert {key.partition("$$$")[0] for key in pyro.get_param_store() if "$$$" in key} == {
        "InfoVAE",
        "InfoVAE_2",
    }


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(D, D)

    def model(self, x: Tensor) -> None:
        model(x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 0.4).to_event(1))


def test_as_a_module_with_a_torch_optimiser() -> None:
    owner, objective = Owner(), InfoVAE(WithNet(), scale=2.0)
    loss = objective(owner.model, owner.guide)
    assert {id(p) for p in loss.parameters()} == {
        id(p) for p in (*owner.parameters(), *objective.parameters())
    }
    optimiser = torch.optim.SGD(loss.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in loss.parameters()]
    loss(data()).backward()
    optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, loss.parameters(), strict=True))


def test_nan_stops_before_the_optimiser_moves() -> None:
    x = data()
    x[3, 0] = float("nan")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), InfoVAE(MMD(), scale=2.0))
    pyro.enable_validation(False)
    with pytest.raises(FloatingPointError, match="term 'reconstruction/x' is nan at step"):
        svi.step(x)
    assert pyro.param("a") == 0.5


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("alpha", [0, 1])
def test_no_host_synchronisation(name: str, alpha: int) -> None:
    pair = PAIRS[name]()
    objective = InfoVAE(MMD(), alpha=alpha, scale=8.0, **pair.keywords)
    objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    no_waiting(objective, pair)


def test_the_sync_probe_can_fail() -> None:
    with pytest.raises(AssertionError, match="waits for the device"), Syncs():
        float(torch.ones(()))


@pytest.mark.parametrize(
    "make",
    [lambda: InfoVAE(MMD(), scale=9.0), lambda: BetaVAE(4.0), lambda: WAE(MMD()), Autoencoder],
)
def test_three_ways_to_the_loss_agree(make: Callable[[], Objective]) -> None:
    objective = make()
    values = []
    for call in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        pyro.set_rng_seed(0)
        loss = call(model, guide, data())
        values.append(loss.item() if isinstance(loss, Tensor) else loss)
    with torch.no_grad():
        pyro.set_rng_seed(0)
        values.append(float(objective.loss(model, guide, data())))
    assert values[0] == values[1] == values[2] == values[3]
