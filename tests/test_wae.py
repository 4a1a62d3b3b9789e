"""The Wasserstein auto-encoder's costs and what it finds."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from probe import D, N, data
from pyro.infer import SVI
from torch import Tensor

from ppl_vae.objectives import (
    MMD,
    RBF,
    WAE,
    AbsoluteError,
    Euclidean,
    SquaredError,
)


@pytest.mark.parametrize(
    ("cost", "by_hand"),
    [
        (SquaredError(0.05), lambda r: 0.05 * r.square().sum()),
        (Euclidean(0.2), lambda r: 0.2 * r.square().sum(-1).sqrt().sum()),
        (AbsoluteError(0.02), lambda r: 0.02 * r.abs().sum()),
    ],
)
@pytest.mark.parametrize("likelihood", ["delta", "normal"])
def test_wae_costs(cost: Any, by_hand: Callable[[Tensor], Tensor], likelihood: str) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            fn = dist.Delta(2 * z) if likelihood == "delta" else dist.Normal(2 * z, 0.1)
            pyro.sample("x", fn.to_event(1), obs=x)

    def delta(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(0.3 * x).to_event(1))

    x = data()
    objective = WAE(MMD(RBF(1.0), prior="closed"), scale=7.0, cost=cost)
    loss = objective.differentiable_loss(model, delta, x)
    expected = by_hand(x - 0.6 * x) + 7.0 * N * objective.terms["divergence/z"]
    torch.testing.assert_close(loss, expected)


def test_wae_linear_gaussian_distance() -> None:
    """With codes that match the prior, the best linear decoder's cost is a known W_2^2.

    Data N(0, S) with S = diag(4, 1, 1/4); a decoder from one code reaches
    inf E|x - G(z)|^2 = W_2^2(N(0, S), rank-one fit) = the two smaller variances.
    """
    torch.manual_seed(0)
    x = torch.randn(4000, 3) * torch.tensor([2.0, 1.0, 0.5])

    def model(x: Tensor) -> None:
        w = pyro.param("w", torch.tensor([0.5, 0.5, 0.5]))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Delta(z * w).to_event(1), obs=x)

    def encoder(x: Tensor) -> None:
        v = pyro.param("v", torch.tensor([0.3, 0.2, 0.1]))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta((x @ v)[:, None]).to_event(1))

    objective = WAE(MMD(RBF(1.0)), scale=200.0)
    svi = SVI(model, encoder, pyro.optim.Adam({"lr": 0.02}), objective)
    for i in range(600):
        svi.step(x[(i % 16) * 250 : (i % 16 + 1) * 250])
    svi.evaluate_loss(x[:2000])
    truth = x[:2000].var(0)[1:].sum()
    # Cost terms of 2,000 rows: the standard error of a sum of two scaled chi-squares.
    error = (2 * (1.0 + 0.0625) / 2000) ** 0.5
    assert abs(objective.terms["reconstruction/x"] - truth) < 4.5 * error
    assert abs(pyro.param("w").detach().abs()[0] - 2) < 0.1


def test_observed_sites_that_no_cost_fits() -> None:
    """A mask by element would be left out of the cost, and a Categorical's mean is NaN."""
    x = torch.zeros(6, 2)
    seen = torch.ones(6, 2, dtype=torch.bool)

    def model(fn: Callable[[Tensor], Any], obs: Tensor) -> Callable[[], None]:
        def run() -> None:
            with pyro.plate("data", 6):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", fn(z), obs=obs)

        return run

    def guide() -> None:
        loc = pyro.param("loc", torch.zeros(6, 2))
        with pyro.plate("data", 6):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    for fn, obs, message in (
        (
            lambda z: dist.Normal(z, 1.0).mask(seen).to_event(1),
            x,
            "'x' has a mask inside to_event",
        ),
        (lambda z: dist.Categorical(logits=z), x[:, 0], "Categorical of site 'x' has no mean"),
        (lambda z: dist.Normal(0.0, z.exp()).to_event(1), x, "mean of 'x' depends on no latent"),
    ):
        with pytest.raises(ValueError, match=message):
            WAE(MMD()).loss(model(fn, obs), guide)
