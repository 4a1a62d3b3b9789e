"""Points of a support with weights, and a distribution held against its own integral over them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Nodes = tuple[Tensor, Tensor]
"""Points `(m, d)` and their weights `(m,)`."""


def product(axis: Tensor, weight: Tensor, d: int) -> Nodes:
    """All d-tuples of the points of one axis."""
    points = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
    return points, torch.cartesian_prod(*[weight] * d).reshape(-1, d).prod(-1)


def space(d: int, count: int = 0) -> Nodes:
    """R^d, 0 a point: z = sinh(u) reaches far into heavy tails."""
    u = torch.linspace(-8, 8, count or (4001 if d == 1 else 401), dtype=torch.double)
    return product(u.sinh(), u.cosh() * (u[1] - u[0]), d)


def interval(d: int, low: float = 0.0, high: float = 1.0) -> Nodes:
    """A box, by Gauss and Legendre: exact for polynomials of degree 59."""
    nodes, weights = (torch.from_numpy(t) for t in np.polynomial.legendre.leggauss(30))
    half = (high - low) / 2
    return product(low + half * (nodes + 1), half * weights, d)


def simplex(d: int) -> Nodes:
    """Pairs that sum to 1, with respect to the first."""
    assert d == 2
    u = torch.linspace(-60, 60, 20_001, dtype=torch.double)
    z = torch.stack([u.sigmoid(), (-u).sigmoid()], -1)
    return z, z.prod(-1) * (u[1] - u[0])


def sphere(d: int) -> Nodes:
    """The unit circle, with respect to its length."""
    assert d == 2
    phi = torch.arange(1000, dtype=torch.double) * (2 * math.pi / 1000)
    return torch.stack([phi.cos(), phi.sin()], -1), torch.full_like(phi, 2 * math.pi / 1000)


def corners(d: int) -> Nodes:
    return torch.eye(d, dtype=torch.double), torch.ones(d, dtype=torch.double)


def levels(count: int, last: float = 1.0) -> Callable[[int], Nodes]:
    """Tuples of `count` equally spaced numbers from 0 to `last`, each a point of mass."""
    axis = torch.linspace(0, last, count, dtype=torch.double)
    return lambda d: product(axis, torch.ones_like(axis), d)


def moved(nodes: Nodes, centre: Tensor, spread: Tensor) -> Nodes:
    """Points about `centre`, `spread` times as far apart."""
    return centre + spread * nodes[0], nodes[1] * spread.prod()


TESTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda z: z.tanh(),
    lambda z: z.tanh().square(),
    lambda z: (2 * z.sum(-1, keepdim=True)).sin(),
    lambda z: z[:, :1].tanh() * z[:, -1:].tanh(),
)


@torch.no_grad()
def check(p: Any, nodes: Nodes, draws: int = 10_000, within: float = 1e-3) -> None:
    """Holds that the density integrates to 1, and draws have the means it says.

    Bounded functions of the draws, in units of their spread, are within 4.5 standard errors of
    their integrals, and of what the sum of all mass is short of 1.

    Args:
        p: a distribution of one batch element, of an event of d elements.
        nodes: points of its support.
        draws: how many.
        within: how far from 1 the sum of all mass may be.
    """
    points, weights = nodes
    event = p.event_shape
    mass = weights * torch.cat(
        [p.log_prob(part.reshape(-1, *event)).exp() for part in points.split(20_000)]
    )
    total = mass.sum()
    assert (total - 1).abs() < within
    z = p.sample((draws,)).reshape(draws, -1)
    centre, spread = z.median(0).values, z.std(0) + 1e-6
    for h in TESTS:
        got = h((z - centre) / spread)
        expected = (h((points - centre) / spread) * mass[:, None]).sum(0) / total
        error = got.std(0) / draws**0.5
        assert ((got.mean(0) - expected).abs() < 4.5 * error + (total - 1).abs() + 1e-6).all()
