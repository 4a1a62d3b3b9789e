"""The noise and spread of codes in the training log, and the collapse they tell of."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae.objectives import MMD, BetaVAE, InfoVAE
from ppl_vae.training.fit import fit
from ppl_vae.training.history import History
from ppl_vae.training.spread import carried, spreads, warn_of_collapse


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("parts", 3):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.sum(-1) + w.sum(0), 1.0), obs=x)


def guide(x: Tensor) -> None:
    sd = pyro.param("sd", torch.tensor([0.5, 2.0]))
    with pyro.plate("data", len(x)):
        loc = torch.stack([3 * x, 0 * x], -1)
        pyro.sample("z", dist.Normal(loc, sd * (1 + x[:, None].abs())).to_event(1))
        with pyro.plate("parts", 3):
            pyro.sample("w", dist.Normal(x + torch.arange(3.0)[:, None], 1.0))


def test_by_hand() -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    x = torch.randn(200)
    before = torch.get_rng_state()
    found = spreads(model, guide, (x,))
    assert torch.equal(torch.get_rng_state(), before)
    noise = (1 + x.abs()).square().mean().sqrt().item()
    spread = x.std(correction=0).item()
    wanted = {"sd/z[0]": 0.5 * noise, "sd/z[1]": 2 * noise}
    wanted |= {"spread/z[0]": 3 * spread, "spread/z[1]": 0.0}
    for j in range(3):
        wanted |= {f"sd/w[{j}]": 1.0, f"spread/w[{j}]": spread}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_sorted_rows_do_not_pass_for_a_collapse() -> None:
    """Of more rows than are looked at the first may all be alike."""
    pyro.clear_param_store()
    x = torch.cat([torch.zeros(1500), torch.ones(1500)])
    found = spreads(model, guide, (x,))
    assert found["spread/z[0]"] == pytest.approx(3 * 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("noise", "spread", "nats"),
    [(1.0, math.sqrt(3.0), math.log(2.0)), (0.5, 0.0, 0.0), (0.0, 1.0, math.inf)],
)
def test_what_a_code_carries(noise: float, spread: float, nats: float) -> None:
    assert carried(noise, spread) == pytest.approx(nats)


def test_a_pair_without_rows_or_moments_logs_none() -> None:
    def flat(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if x is not None:
            pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]).to_event(1), obs=x)

    def discrete(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def its_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.3))

    def global_guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))

    x = torch.zeros(5)
    assert spreads(flat, global_guide, (x,)) == {}
    found = spreads(discrete, its_guide, (x,))
    assert found == {} or set(found) == {"sd/z[0]", "spread/z[0]"}


def test_fit_logs_them() -> None:
    pyro.clear_param_store()
    history = fit(model, guide, torch.randn(40), BetaVAE(), epochs=2)
    assert {"sd/z[0]", "spread/z[1]", "sd/w[2]"} <= set(history.names)
    assert history["spread/z[1]"] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("rate", "sd", "spread", "warns"),
    [
        (8.0, 0.01, 0.0005, True),  # narrow and all alike: a high rate, and nothing said
        (8.0, 0.01, 0.01, False),
        (0.01, 1.0, 0.05, True),
        (math.inf, 0.0, 0.0, False),  # points, whose information no sd tells
    ],
)
def test_means_that_do_not_spread_are_a_collapse(
    rate: float, sd: float, spread: float, warns: bool
) -> None:
    row: dict[str, Any] = {"rate": rate}
    for j in range(4):
        row |= {f"sd/z[{j}]": sd, f"spread/z[{j}]": spread}
    if warns:
        with pytest.warns(UserWarning, match="posterior collapse"):
            [warn_of_collapse(History([row] * epochs), epochs == 3) for epochs in (2, 3)]
    else:
        warn_of_collapse(History([row] * 3), is_last=True)


def test_means_on_their_way_are_none() -> None:
    """An encoder starts with means close together, and moves them apart."""
    rows = [{"rate": 8.0, "sd/z[0]": 0.1, "spread/z[0]": s} for s in (0.001, 0.002, 0.004, 0.01)]
    warn_of_collapse(History(rows), is_last=True)


def test_a_constant_encoder_under_mmd_is_told_of() -> None:
    """At alpha = 1 no rate is weighed: one narrow code for all x has a high one."""

    def constant(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.05).to_event(1))
            with pyro.plate("parts", 3):
                pyro.sample("w", dist.Normal(loc[0], 0.05))

    def bare(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("parts", 3):
                pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    pyro.clear_param_store()
    objective = InfoVAE(MMD(), sites=["z"])
    with pytest.warns(UserWarning, match="the means carry 0 nats"):
        fit(bare, constant, torch.randn(40), objective, epochs=3)
