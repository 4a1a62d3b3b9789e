r"""Learned critics find f-divergences of two Gaussians, and the penalised Wasserstein distance.

A critic of two hidden layers is trained to tell draws of $p = N(0, I)$ in the plane from draws of
$q = N(m, S)$ with $m = (.8, -.4)$ and $S = ((1.6, .4), (.4, 1.1))$, wide enough for the
chi-squared divergence to be finite: 300 steps of Adam (600 for chi-squared) that fall from 1e-2 to
0, 512 fresh draws each. Its value on 400,000 new draws is a lower bound, and is compared with the
divergence by a sum over a grid,

$$D_f(p \Vert q) = \sup_T \mathbb{E}_p T - \mathbb{E}_q f^*(T),$$

for Jensen-Shannon, KL, reverse KL, chi-squared and Hellinger. A Wasserstein critic with a gradient
penalty of weight w is trained on two points at a distance of 2, where the best one's slope is $1 +
1/w$ and its value $2 + 2/w$ for w = 10. In nats, but for the last.

Nowozin, Cseke and Tomioka (2016), f-GAN, arXiv:1606.00709; Gulrajani, Ahmed, Arjovsky, Dumoulin
and Courville (2017), Improved training of Wasserstein GANs, arXiv:1704.00028.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.objectives import Adversarial, AggregatePosterior
from ppl_vae.objectives.divergences.wgan import WassersteinGP
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.pictures import lines
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, value
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = ["EXPERIMENT", "exact"]

MEAN, COVARIANCE = (0.8, -0.4), ((1.6, 0.4), (0.4, 1.1))
BOUNDS = ("JS", "KL", "reverse KL", "chi-squared", "Hellinger")
WASSERSTEIN, WEIGHT, APART = "Wasserstein, penalised", 10.0, 2.0


def gaussians(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """p and q."""
    p = dist.Normal(torch.zeros(2, dtype=dtype), 1.0).to_event(1)
    q = dist.MultivariateNormal(
        torch.tensor(MEAN, dtype=dtype), torch.tensor(COVARIANCE, dtype=dtype)
    )
    return p, q


def exact(name: str) -> float:
    """The divergence by a sum over a grid; the penalised distance by its closed form."""
    if name == WASSERSTEIN:
        return APART + APART / WEIGHT
    t = torch.linspace(-9, 9, 601, dtype=torch.float64)
    log_p, log_q = (d.log_prob(torch.cartesian_prod(t, t)) for d in gaussians(torch.float64))
    p, q, log_m = log_p.exp(), log_q.exp(), torch.logaddexp(log_p, log_q) - math.log(2)
    integrand = {
        "JS": 0.5 * (p * (log_p - log_m) + q * (log_q - log_m)),
        "KL": p * (log_p - log_q),
        "reverse KL": q * (log_q - log_p),
        "chi-squared": (p - q).square() / q,
        "Hellinger": (p.sqrt() - q.sqrt()).square(),
    }[name]
    return float(integrand.sum() * (t[1] - t[0]) ** 2)


def measure(seed: int, bound: str, steps: int) -> Measures:
    """Trains one critic."""
    pyro.set_rng_seed(seed)
    if bound == WASSERSTEIN:
        critic = Adversarial(dim=2, hidden=(32, 32), bound=WassersteinGP(WEIGHT))
        place = APART * torch.tensor([0.6, 0.8])

        def draws(n: int) -> AggregatePosterior:
            return AggregatePosterior.of(torch.zeros(n, 2), place.expand(n, 2))

        batch, last, lr = 64, 64, 5e-3
    else:
        critic = Adversarial(dim=2, hidden=(64, 64), bound=cast(Any, bound))
        p, q = gaussians()

        def draws(n: int) -> AggregatePosterior:
            return AggregatePosterior.of(q.sample((n,)), p)

        batch, last, lr = 512, 400_000, 1e-2
    curve = _train(critic, draws, batch, steps, lr)
    found = float(critic(draws(last)).detach())
    return {"found": found, "exact": exact(bound), "ratio": found / exact(bound), "curve": curve}


def _train(
    critic: Adversarial, draws: Callable[[int], AggregatePosterior], n: int, steps: int, lr: float
) -> list[list[float]]:
    """Trains the critic; minus its loss in each of some thirty stretches of the training."""
    optimiser = torch.optim.Adam(critic.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses, every = list[float](), max(1, steps // 30)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = cast(Tensor, critic.critic_loss(draws(n)))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        losses.append(-float(loss.detach()))
    ends = range(every, steps + 1, every)
    return [[end, sum(losses[end - every : end]) / every] for end in ends]


def cells(steps: int) -> Sequence[Cell]:
    """One for each bound; the heaviest tail takes twice the steps."""
    twice = ("chi-squared", WASSERSTEIN)
    return [
        Cell(name, measure, {"bound": name, "steps": steps * (1 + (name in twice))})
        for name in (*BOUNDS, WASSERSTEIN)
    ]


def claims(found: Found) -> Sequence[Claim]:
    """That each is within five per cent."""

    def off(run: Mapping[str, Measures], name: str) -> Condition:
        return Condition(f"{name}, off by", abs(value(run, name, "ratio") - 1), at_most=0.05)

    def shannon(run: Mapping[str, Measures]) -> list[Condition]:
        return [off(run, "JS")]

    def others(run: Mapping[str, Measures]) -> list[Condition]:
        return [off(run, name) for name in (*BOUNDS[1:], WASSERSTEIN)]

    return [
        Claim(
            "a",
            "A critic finds the Jensen-Shannon divergence of two Gaussians.",
            "within 5 % of quadrature",
            by_seed(found, shannon),
            "adversarial (AAE, WAE-GAN)",
            "no figure; derived",
        ),
        Claim(
            "b",
            "Critics find KL, reverse KL, chi-squared, Hellinger and the penalised distance.",
            "each within 5 % of quadrature, the last of its closed form",
            by_seed(found, others),
            "f-divergence generalisation",
            "no figure; derived",
        ),
    ]


def draw(found: Found, folder: Path) -> Sequence[Path]:
    """Minus each critic's loss over its exact value, as it is trained."""
    series: dict[str, Any] = {
        name: [
            tuple(zip(*[(s, v / run[name]["exact"]) for s, v in run[name]["curve"]], strict=True))
            for run in found.values()
            if name in run
        ]
        for name in (*BOUNDS, WASSERSTEIN)
    }
    panel = "minus the critic's loss over the exact value"
    return [lines(folder / "critics.png", {panel: series}, "step", marks={panel: 1.0})]


EXPERIMENT = Reproduction(
    scales={"small": {"steps": 300}},
    cells=cells,
    columns=("found", "exact", "ratio"),
    claims=claims,
    draw=draw,
)
