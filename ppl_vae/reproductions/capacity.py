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
exactly from what it ends with, in nats per datum; beside them are the bound, the least rate there
is at it, and $\lambda$.

Burgess et al. (2018), arXiv:1804.03599; Rezende and Viola (2018), arXiv:1810.00597.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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
from ppl_vae.objectives import GECO, CapacityVAE, Constraint, Dual, Linear
from ppl_vae.objectives.costs import Cost
from ppl_vae.pairs.vae import VAE
from ppl_vae.plots.palette import BLACK, CYCLE, RED, Drawing, styled
from ppl_vae.priors import StandardNormal
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, value
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = ["EXPERIMENT", "HOLDS", "MULTIPLIERS", "LinearWorld", "follow", "meet"]

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
    loss = objective(vae.model, vae.guide)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(loss.parameters(), lr=lr)
    curve = []
    for step in range(steps):
        target = objective.at_step(objective.target)
        optimizer.zero_grad()
        (loss(x) / len(x)).backward()
        optimizer.step()
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
    loss = objective(world.model, world.guide)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(loss.parameters(), lr=lr)
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, 2 * (1 - t / steps)))
    for _ in range(steps):
        optimizer.zero_grad()
        (loss(world.x) / len(world.x)).backward()
        optimizer.step()
        fall.step()
    dual = objective.constraint
    assert isinstance(dual, Dual)
    return float(dual.multiplier(at_most=True).detach())


def held(seed: int, hold: str, steps: int, lr: float) -> Measures:
    """How far the rate is from its capacity, past the first tenth."""
    curve = follow(HOLDS[hold](), seed, steps=steps, lr=lr)
    past = curve[len(curve) // 10 :]
    gaps = [abs(rate - target) for _, rate, target in past]
    return {"largest distance": max(gaps), "last distance": gaps[-1], "curve": curve[::10]}


def bound(seed: int, multiplier: float, steps: int) -> Measures:
    """Reconstruction, rate and multiplier of a bound, with the true ones."""
    pyro.set_rng_seed(seed)
    world = LinearWorld(seed=seed)
    tolerance, least = world.best(multiplier)
    found = meet(world, tolerance, steps=steps)
    reconstruction, rate = world.found()
    return {
        "reconstruction": reconstruction,
        "bound": tolerance,
        "rate": rate,
        "least": least,
        "multiplier": found,
        "truth": multiplier,
        "curve": [world.best(math.exp(k / 20)) for k in range(-60, 61)],
    }


def cells(holds: Mapping[str, Mapping[str, float]], steps: int) -> Sequence[Cell]:
    """One for each hold, and one for each bound."""
    return [
        *(Cell(name, held, {"hold": name, **options}) for name, options in holds.items()),
        *(Cell(_bound(m), bound, {"multiplier": m, "steps": steps}) for m in MULTIPLIERS),
    ]


def _bound(multiplier: float) -> str:
    return f"bound at lambda = {multiplier:g}"


def claims(found: Found) -> Sequence[Claim]:
    """That the capacity is tracked, and the bounds met."""

    def tracked(run: Mapping[str, Measures]) -> list[Condition]:
        return [
            Condition(f"largest distance, {n}", value(run, n, "largest distance"), at_most=0.3)
            for n in HOLDS
        ]

    def met(run: Mapping[str, Measures]) -> list[Condition]:
        conditions = []
        for multiplier in MULTIPLIERS:
            name = _bound(multiplier)
            numbers = {
                key: value(run, name, key)
                for key in ("reconstruction", "bound", "rate", "least", "multiplier")
            }
            off = abs(numbers["reconstruction"] - numbers["bound"])
            conditions += [
                Condition(f"off the bound, {name}", off, at_most=0.05),
                Condition(f"above the least rate, {name}",
                          abs(numbers["rate"] - numbers["least"]),
                          at_most=0.05 * multiplier + 0.01),
                Condition(f"multiplier off by, {name}",
                          abs(numbers["multiplier"] / multiplier - 1), at_most=0.1),
            ]  # fmt: skip
        return conditions

    return [
        Claim(
            "a",
            "The KL tracks its capacity.",
            "within .3 nats past the first tenth of the run, by penalty and by dual variable",
            by_seed(found, tracked),
            "capacity-annealed beta-VAE",
            "no figure (Burgess et al., 2018, gamma 1000, C from 0 to 25)",
        ),
        Claim(
            "b",
            "A bound on the reconstruction is met at the least rate.",
            "the bound within .05 nats, the rate within .05 lambda + .01 of the least, the "
            "multiplier within 10 %",
            by_seed(found, met),
        ),
    ]


@styled
def draw(found: Found, folder: Path) -> Sequence[Path]:
    """The rates under a capacity, and the bounds met."""
    run = next(iter(found.values()))
    figure = Drawing(9, 3.6)
    left, right = figure.subplots(1, 2)
    for name, colour in zip(HOLDS, CYCLE, strict=False):
        if name in run:
            steps, rates, targets = zip(*run[name]["curve"], strict=True)
            left.plot(steps, rates, color=colour, label=name)
            left.plot(steps, targets, color=BLACK, linewidth=0.9, linestyle="--")
    left.set(xlabel="step", ylabel="rate, nats", title="The rate under a capacity C(t) (digits)")
    left.legend()
    for multiplier in MULTIPLIERS:
        one = run.get(_bound(multiplier))
        if one is not None:
            right.plot(*zip(*one["curve"], strict=True), color=BLACK, linewidth=0.9)
            right.plot([one["reconstruction"]], [one["rate"]], "o", color=RED)
    right.set(xlabel="reconstruction, nats", ylabel="rate, nats", title="Bounds met (linear)")
    path = folder / "capacity.png"
    plots.save(figure, path)
    return [path]


EXPERIMENT = Reproduction(
    scales={
        "small": {
            "holds": {
                "penalty": {"steps": 1500, "lr": 1.5e-4},
                "dual variable": {"steps": 640, "lr": 3e-4},
            },
            "steps": 1500,
        }
    },
    cells=cells,
    columns=(
        "largest distance", "last distance", "reconstruction", "bound", "rate", "least",
        "multiplier",
    ),
    claims=claims,
    draw=draw,
)  # fmt: skip
