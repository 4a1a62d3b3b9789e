"""Probabilistic PCA, where the least rate at a reconstruction is known."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.objectives import GECO, Dual, HighThenLow
from ppl_vae.objectives.costs import Cost
from ppl_vae.training import SVI
from ppl_vae.training.optim import Adam

__all__ = ["LinearWorld", "meet"]


class LinearWorld(nn.Module):
    r"""Data of probabilistic PCA, its decoder, and an encoder that starts at the posterior.

    W has orthogonal columns of squared lengths 4, 1 and 1/4, in six dimensions, and s = 1/2.

    Args:
        n: the number of data.
        seed: of the data.
    """

    noise = 0.5
    x: Tensor
    weight: Tensor

    def __init__(self, n: int = 200, seed: int = 0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        like: dict[str, Any] = {"generator": g, "dtype": torch.float64}
        basis, _ = torch.linalg.qr(torch.randn(6, 3, **like))
        self.register_buffer("weight", basis * torch.tensor([2.0, 1.0, 0.5]))
        z, e = torch.randn(n, 3, **like), torch.randn(n, 6, **like)
        self.register_buffer("x", z @ self.weight.T + self.noise * e)
        signal = self.weight / self.noise**2
        variance = 1 / (1 + (signal * self.weight).sum(0))
        self.gain = nn.Parameter((signal * variance).T.clone())
        self.shift = nn.Parameter(torch.zeros_like(variance))
        self.deviation = nn.Parameter(0.5 * variance.log())

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.shift), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("world", self)
        mean = x @ self.gain.T + self.shift
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, self.deviation.exp()).to_event(1))

    def figures(self, mean: Tensor, variance: Tensor) -> tuple[float, float]:
        """Reconstruction and rate of codes N(mean, variance), in nats per datum."""
        squares = (self.x - mean @ self.weight.T).square().sum(1).mean()
        squares = squares + (self.weight.square().sum(0) * variance).sum()
        constant = 0.5 * self.x.shape[1] * math.log(2 * math.pi * self.noise**2)
        rate = 0.5 * (variance - 1 - variance.log() + mean.square().mean(0)).sum()
        return float(0.5 * squares / self.noise**2) + constant, float(rate)

    def found(self) -> tuple[float, float]:
        """Reconstruction and rate of the encoder as it is."""
        with torch.no_grad():
            mean = self.x @ self.gain.T + self.shift
            return self.figures(mean, (2 * self.deviation).exp())

    def best(self, multiplier: float) -> tuple[float, float]:
        """Reconstruction and rate of the encoder that is best at a multiplier."""
        signal = multiplier * self.weight / self.noise**2
        variance = 1 / (1 + (signal * self.weight).sum(0))
        return self.figures(self.x @ signal * variance, variance)

    def least_rate(self, reconstruction: float) -> float:
        """The least rate there is at a reconstruction."""
        low, high = 1e-6, 1e6
        for _ in range(100):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.best(middle)[0] > reconstruction else (low, middle)
        return self.best(math.sqrt(low * high))[1]


def meet(
    world: LinearWorld,
    tolerance: float,
    *,
    cost: Cost | None = None,
    steps: int = 1500,
    lr: float = 0.01,
) -> float:
    """Trains the encoder of a world by `GECO`, and returns the multiplier."""
    objective = GECO(tolerance, Dual(speed=1.0, damping=0.0, average=0.9), cost=cost)
    # At its full rate for half of the steps, then down to 0.
    optimizer = Adam(lr, schedule=HighThenLow(1.0, 0.0, 0.5, 0.5))
    optimizer.plan(steps)
    svi = SVI(world.model, world.guide, optimizer, objective)
    for _ in range(steps):
        svi.step(world.x)
        optimizer.advance()
    dual = objective.constraint
    assert isinstance(dual, Dual)
    return float(dual.multiplier(at_most=True).detach())
