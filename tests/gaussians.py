"""An aggregate posterior whose every divergence from N(0, I) has a closed form.

Rows are z_i ~ N(m_i, S^2 I) with m_i ~ N(MU, T^2 I), so that q(z) = N(MU, V I), V = S^2 + T^2.
"""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.objectives import AggregatePosterior, Divergence

MU, S, T = 0.4, 0.5, 0.7
V = S**2 + T**2


def rows(n: int, d: int, mu: float | Tensor = MU) -> dist.Distribution:
    """n conditionals q(z | x_i)."""
    means = mu + T * torch.randn(n, d)
    return dist.Normal(means, torch.full_like(means, S)).to_event(1)


def standard(d: int) -> dist.Distribution:
    """The prior."""
    return dist.Normal(torch.zeros(d), torch.ones(d)).to_event(1)


def estimates(divergence: Divergence, n: int, d: int, repeats: int) -> Tensor:
    """Values of independent batches, `(repeats,)`."""
    with torch.no_grad():
        return torch.stack(
            [divergence(AggregatePosterior.of(rows(n, d), standard(d))) for _ in range(repeats)]
        )


def slopes(divergence: Divergence, n: int, d: int, repeats: int) -> Tensor:
    """Derivatives in MU of independent batches, `(repeats,)`."""
    found = []
    for _ in range(repeats):
        mu = torch.tensor(MU, requires_grad=True)
        value = divergence(AggregatePosterior.of(rows(n, d, mu), standard(d)))
        found.append(torch.autograd.grad(value, mu)[0])
    return torch.stack(found)


def derivative(population: Callable[[float], float], at: float = MU) -> float:
    """A central difference."""
    return (population(at + 1e-5) - population(at - 1e-5)) / 2e-5


def deviation(values: Tensor, truth: Tensor | float) -> float:
    """The mean's largest distance from the truth in standard errors."""
    error = values.std(0) / len(values) ** 0.5
    return float(((values.mean(0) - truth).abs() / error).max())
