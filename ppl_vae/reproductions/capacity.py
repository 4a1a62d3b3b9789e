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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyro
import torch
from torch import nn
from torch.distributions import kl_divergence

from ppl_vae import plots
from ppl_vae.bodies import MLP
from ppl_vae.data import Digits
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.objectives import CapacityVAE, Constraint, Dual, Linear
from ppl_vae.pairs.vae import VAE
from ppl_vae.plots.palette import BLACK, CYCLE, RED, Drawing, styled
from ppl_vae.priors import StandardNormal
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.linear_world import LinearWorld, meet
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, value
from ppl_vae.reproductions.common.verdicts import Claim, Condition
from ppl_vae.training import SVI
from ppl_vae.training.optim import Adam

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
