"""An aggregate posterior whose every divergence from N(0, I) has a closed form.

Rows are z_i ~ N(m_i, S^2 I) with m_i ~ N(MU, T^2 I), so that q(z) = N(MU, V I), V = S^2 + T^2.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import multivariate_normal, normal

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


def together(value: Callable[[Tensor], Tensor], at: Tensor, largest: int | None) -> Tensor:
    """Values of independent calls, one for each element of `at`: many to a `torch.vmap`.

    Args:
        value: of one element, by random numbers of its own.
        at: what it is called with.
        largest: elements of its largest matrix, by which so many are taken as a cache holds; None
            for what `torch.vmap` cannot take.
    """
    many = 1 if largest is None else max(1, 30_000 // largest)
    checks = dist.is_validation_enabled()
    dist.enable_validation(False)  # they branch on values
    try:
        # torch draws normals in place, which vmap cannot do anew for each call
        with ExitStack() as stack:
            for module in (normal, multivariate_normal):
                stack.enter_context(patch.object(module, "_standard_normal", _standard_normal))
            if many > 1:
                return torch.vmap(value, randomness="different", chunk_size=many)(at)
            return torch.stack([value(one) for one in at])
    finally:
        dist.enable_validation(checks)


def _standard_normal(shape: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, dtype=dtype, device=device)


def estimates(
    divergence: Divergence, n: int, d: int, repeats: int, one_by_one: bool = False
) -> Tensor:
    """Values of independent batches, `(repeats,)`."""

    def value(_: Tensor) -> Tensor:
        return divergence(AggregatePosterior.of(rows(n, d), standard(d)))

    with torch.no_grad():
        return together(value, torch.zeros(repeats), None if one_by_one else n * n * d)


def slopes(divergence: Divergence, n: int, d: int, repeats: int) -> Tensor:
    """Derivatives in MU of independent batches, `(repeats,)`."""

    def value(mu: Tensor) -> Tensor:
        return divergence(AggregatePosterior.of(rows(n, d, mu), standard(d)))

    mu = torch.full((repeats,), MU, requires_grad=True)
    return torch.autograd.grad(together(value, mu, n * n * d).sum(), mu)[0]


def derivative(population: Callable[[float], float], at: float = MU) -> float:
    """A central difference."""
    return (population(at + 1e-5) - population(at - 1e-5)) / 2e-5


def deviation(values: Tensor, truth: Tensor | float) -> float:
    """The mean's largest distance from the truth in standard errors."""
    error = values.std(0) / len(values) ** 0.5
    return float(((values.mean(0) - truth).abs() / error).max())
