"""An aggregate posterior whose log q(z) is known: six Gaussians in the plane.

Expectations of the minibatch estimates are exact, by enumeration of batches and quadrature.
"""

import math
from itertools import combinations
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.objectives import AggregatePosterior
from ppl_vae.objectives.divergences.aggregate_kl import Estimator

MEANS = torch.tensor(
    [[-1.4, 0.5], [-0.3, -1.2], [0.2, 0.9], [0.6, -0.4], [1.1, 1.3], [1.6, 0.1]],
    dtype=torch.float64,
)
SCALES = torch.tensor(
    [[0.4, 0.6], [0.7, 0.5], [0.5, 0.9], [0.6, 0.4], [0.8, 0.7], [0.5, 0.5]], dtype=torch.float64
)
N = len(MEANS)
ESTIMATORS: tuple[Estimator, ...] = ("MSS", "MWS")


def standard(dim: int = 2) -> Any:
    return dist.Normal(torch.zeros(dim, dtype=torch.float64), 1.0).to_event(1)


def batch(rows: Tensor, **kwargs: Any) -> AggregatePosterior:
    """The aggregate posterior of a subset of the N data, as a subsampled plate gives it."""
    q = dist.Normal(MEANS[rows], SCALES[rows]).to_event(1)
    weights = torch.full((len(rows),), N / len(rows), dtype=torch.float64)
    return AggregatePosterior.of(q, standard(), weights=weights, **kwargs)


def grid(dim: int) -> tuple[Tensor, float]:
    """Points `(m, dim)` of a grid over the data's codes, and the volume of its cells."""
    t = torch.linspace(-6.5, 6.5, 261 if dim == 2 else 2001, dtype=torch.float64)
    h = float(t[1] - t[0])
    return torch.cartesian_prod(*[t] * dim).reshape(-1, dim), h**dim


def by_datum(dims: list[int]) -> tuple[Tensor, Tensor, float]:
    """log q(z | x_j) and log p of the given dimensions over a grid: `(N, m)`, `(m,)`, the cell."""
    points, cell = grid(len(dims))
    log_q = dist.Normal(MEANS[:, None, dims], SCALES[:, None, dims]).log_prob(points).sum(-1)
    return log_q, standard(len(dims)).log_prob(points), cell


def aggregate_term(dims: list[int], n: int, estimator: Estimator) -> float:
    r"""$\mathrm{E} \log \hat q(z_i)$ of the given dimensions, over all batches of n and all z."""
    log_q, _, cell = by_datum(dims)
    total = 0.0
    count = 0
    for i in range(N):
        others = [j for j in range(N) if j != i]
        for chosen in combinations(others, n - 1):
            if estimator == "MSS":
                shares = [1 / N] + [(N - 1) / (N * (n - 1))] * (n - 1)
            else:
                shares = [1 / (N * n)] * n
            log_shares = torch.tensor(shares, dtype=torch.float64).log()[:, None]
            estimate = torch.logsumexp(log_shares + log_q[[i, *chosen]], 0)
            total += float((log_q[i].exp() * estimate).sum() * cell)
            count += 1
    return total / count


def prior_term(dims: list[int]) -> float:
    log_q, log_p, cell = by_datum(dims)
    return float((log_q.exp().mean(0) * log_p).sum() * cell)


def own_term() -> float:
    """E log q(z | x)."""
    log_q, _, cell = by_datum([0, 1])
    return float((log_q.exp() * log_q).sum(1).mean() * cell)


def full_data() -> dict[str, float]:
    """The three parts of the KL over all N data, by quadrature."""
    joint = aggregate_term([0, 1], N, "MSS")
    marginals = sum(aggregate_term([k], N, "MSS") for k in (0, 1))
    return {
        "mutual_information": own_term() - joint,
        "total_correlation": joint - marginals,
        "dimension_wise": marginals - prior_term([0]) - prior_term([1]),
    }


def near(draws: list[float], expected: float) -> None:
    """Holds a mean of independent draws against its expectation, to 4.5 standard errors."""
    values = torch.tensor(draws, dtype=torch.float64)
    error = values.std() / math.sqrt(len(draws))
    assert float((values.mean() - expected).abs() / error) < 4.5, (values.mean(), expected, error)


def pair_of(size: int, subsample: int | None = None, loc: float = 0.0, scale: float = 1.0) -> Any:
    """A model and guide over the data, with a prior of the given units."""

    def model() -> None:
        with pyro.plate("data", size, subsample_size=subsample) as index:
            prior = dist.Normal(torch.full((2,), loc, dtype=torch.float64), scale)
            z = pyro.sample("z", prior.to_event(1))
            x = torch.zeros(len(index), 2, dtype=torch.float64)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide() -> None:
        with pyro.plate("data", size, subsample_size=subsample) as index:
            q = dist.Normal(loc + scale * MEANS[index], scale * SCALES[index])
            pyro.sample("z", q.to_event(1))

    return model, guide
