r"""A capacity is followed to 0.3 nats, and a bound on the reconstruction is met at the least rate.

Capacity. A VAE with ten latents on scikit-learn's digits, whose KL is held at C(t), from 0 to 25
nats along a line over the first four fifths of 1,500 steps, by the penalty gamma |KL - C| with
gamma = 1000 or by a dual variable. Steps take all training digits at once, and are small (Adam at
1.5e-4): so strong a penalty drives every step to one side or the other, by an amount that the
learning rate sets. Reported are the largest and the last distance of the rate from C(t), past the
first tenth of the run.

Bound. With a linear decoder of orthogonal columns, x | z ~ N(Wz, s^2 I), the encoder of least rate
under E -log p(x|z) <= kappa is known: $q(z|x) \propto p(z)\, p(x|z)^\lambda$, a Gaussian of
independent coordinates, at the $\lambda$ where the bound holds with equality, and $\lambda$ is the
multiplier. `GECO` trains gain, shift and deviation of such an encoder from the posterior, which is
$\lambda$ = 1, under bounds chosen for $\lambda$ = 1/4 and 4. Reconstruction and rate are added up
exactly from what it ends with, in nats per datum; besides them are the bound, the least rate there
is at it, and $\lambda$.

Burgess et al. (2018), arXiv:1804.03599; Rezende and Viola (2018), arXiv:1810.00597.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppl_vae import plots
from ppl_vae.bodies import MLP
from ppl_vae.data import Digits
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.objectives import GECO, CapacityVAE, Constraint, Dual, HighThenLow, Linear
from ppl_vae.objectives.costs import Cost
from ppl_vae.pairs.vae import VAE
from ppl_vae.plots.palette import BLACK, CYCLE, RED, Drawing, styled
from ppl_vae.priors import StandardNormal
from ppl_vae.training import SVI
from ppl_vae.training.optim import Adam

__all__ = ["HOLDS", "MULTIPLIERS", "LinearWorld", "follow", "meet", "run"]

HOLDS: dict[str, Callable[[], float | Constraint]] = {
    "penalty": lambda: 1000.0,
    "dual variable": lambda: Dual(speed=100.0, damping=30.0),
}
"""What holds the rate at its capacity."""

MULTIPLIERS = (0.25, 4.0)
"""The multipliers of the bounds."""


def follow(
    hold: float | Constraint,
    seed: int = 0,
    *,
    steps: int = 1500,
    top: float = 25.0,
    lr: float = 1.5e-4,
) -> list[tuple[int, float, float]]:
    """Trains a VAE on digits under a capacity; returns step, rate and capacity of each step."""
    pyro.set_rng_seed(seed)
    x = Digits(seed=seed).train
    body: Callable[..., nn.Module] = partial(MLP, hidden=(64,))
    size = x.shape[1:]
    vae = VAE(
        StandardNormal(10),
        Bernoulli(10, size, body=body),
        MeanFieldNormal(size, 10, body=body, initial_scale=1.0),
    )
    objective = CapacityVAE(Linear(0.0, top, over=0.8), hold)
    objective.plan(steps)
    svi = SVI(vae.model, vae.guide, Adam(lr), objective)
    curve = []
    for step in range(steps):
        target = objective.at_step(objective.target)
        svi.step(x)
        with torch.no_grad():
            q, p = vae.encoder(x), vae.prior()
            rate = kl_divergence(q, p.expand(q.batch_shape)).mean()
        curve.append((step, float(rate), float(target)))
    return curve


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


def run(out: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Follows the capacity with either hold and meets each bound; a row each."""
    rows: list[list[Any]] = []
    curves = {}
    for name, hold in HOLDS.items():
        curves[name] = follow(hold(), seed)
        past = curves[name][len(curves[name]) // 10 :]
        gaps = [abs(rate - target) for _, rate, target in past]
        rows.append([f"capacity, {name}", "largest distance, nats", max(gaps), 0.0])
        rows.append([f"capacity, {name}", "last distance, nats", gaps[-1], 0.0])
    points, curve = [], []
    for multiplier in MULTIPLIERS:
        pyro.set_rng_seed(seed)
        world = LinearWorld(seed=seed)
        tolerance, least = world.best(multiplier)
        found = meet(world, tolerance)
        reconstruction, rate = world.found()
        points.append((reconstruction, rate))
        curve = [world.best(math.exp(k / 20)) for k in range(-60, 61)]
        name = f"bound {tolerance:.3f}"
        rows.append([name, "reconstruction, nats", reconstruction, tolerance])
        rows.append([name, "rate, nats", rate, least])
        rows.append([name, "multiplier", found, multiplier])
    return {
        "columns": ["what", "figure", "found", "truth"],
        "rows": rows,
        "pictures": [] if out is None else [_draw(curves, points, curve, Path(out))],
    }


@styled
def _draw(
    curves: dict[str, list[tuple[int, float, float]]],
    points: Sequence[tuple[float, float]],
    curve: Sequence[tuple[float, float]],
    out: Path,
) -> Path:
    figure = Drawing(9, 3.6)
    left, right = figure.subplots(1, 2)
    for (name, values), colour in zip(curves.items(), CYCLE, strict=False):
        steps, rates, targets = zip(*values, strict=True)
        left.plot(steps, rates, color=colour, label=name)
    left.plot(steps, targets, color=BLACK, linewidth=0.9, linestyle="--", label="C(t)")
    left.set(xlabel="step", ylabel="rate, nats", title="The rate under a capacity (digits)")
    left.legend()
    right.plot(*zip(*curve, strict=True), color=BLACK, linewidth=0.9, label="least rate")
    right.plot(*zip(*points, strict=True), "o", color=RED, label="GECO")
    right.set(xlabel="reconstruction, nats", ylabel="rate, nats", title="A bound met (linear)")
    right.legend()
    path = out / "capacity.png"
    plots.save(figure, path)
    return path
