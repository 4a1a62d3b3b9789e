r"""log q(z) of the aggregate posterior from one minibatch, and KL(q(z) || p(z)) by it.

The density of q(z) is a mean over all N data, of which a minibatch of n holds some, the datum that
z was drawn from among them. Either estimate weighs the conditionals of the batch,

$$\hat q(z_i) = \sum_j A_{ij}\, q(z_i \mid x_j),$$

**MSS**, minibatch stratified sampling: $A_{ii} = 1 / N$, the datum's true share, and
$A_{ij} = (N - 1) / (N (n - 1))$. $\hat q$ is unbiased, so $\log \hat q$ is too low by Jensen's
inequality, less so as n grows, and not at all at n = N. (The paper gives the others unequal
weights of the same mean, by their order in the batch; equal ones have the lower variance.)

**MWS**, minibatch weighted sampling: $A_{ij} = 1 / (N n)$. Its $\hat q$ is biased low: log q(z) by
about log N where all conditionals overlap (at n = N, always), by log n where none do.

References:
    Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
    autoencoders, arXiv:1802.04942.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior
from ppl_vae.objectives.divergences.blocks import by_blocks
from ppl_vae.objectives.divergences.divergence import Counted, Divergence, Reads
from ppl_vae.objectives.divergences.expectation import quadratic_forms
from ppl_vae.objectives.divergences.gaussians import Gaussians
from ppl_vae.objectives.divergences.marginals import log_marginals
from ppl_vae.objectives.divergences.weighting import living_data, normalised

__all__ = ["AggregateKL", "Estimator", "LogDensities", "log_densities"]

Estimator = Literal["MSS", "MWS"]

_LOG_2_PI = math.log(2 * math.pi)


class AggregateKL(Counted, Divergence):
    r"""$\mathrm{KL}(q_w(z) \Vert p(z))$ in nats, with log q(z) estimated on the minibatch.

    $$\sum_i \frac{w_i}{W} \left(\log \hat q(z_i) - \log p(z_i)\right), \qquad
      z_i \sim q(z \mid x_i)$$

    by MSS or MWS (see the module's text): both are biased low, may be negative and are not
    clamped. By MSS it is never below the rate as sampled less log N, since the information it
    implies is never above log N; by MWS it can be, by up to log n. The bias is large where the
    conditionals that overlap at a code are too rare to be in one batch.
    Costs $n^2 d$ in time ($n^2 d^2$ for full covariances), and memory linear in n.

    The guide must be Gaussian given the data at every site of the joint, and none of these sites
    drawn given another. A site drawn given a further latent u counts (x, u) as its datum.

    Args:
        estimator: "MSS" or "MWS".
        size: the number of data N. By default what `ppl_vae.fit` tells, or else the plate: its
            full size where it is subsampled, and the rows themselves where they are all of it. A
            training loop of your own that feeds batches to a plate of `len(x)` must say it, or
            each batch is taken for the world.

    Shape:
        codes `(n, d)`; the result is a scalar.

    Raises:
        ValueError: for a guide without a Gaussian density, a prior without a density, or a
            single row.

    References:
        Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
        autoencoders, arXiv:1802.04942.
    """

    def __init__(self, estimator: Estimator = "MSS", size: int | None = None):
        super().__init__()
        check(estimator, size, "AggregateKL")
        self.estimator: Estimator = estimator
        self.size = size

    @property
    def reads(self) -> Reads:
        return "density"

    def of_unit_shift(self, dim: int) -> float:
        return 0.5

    def forward(self, q: AggregatePosterior) -> Tensor:
        found = log_densities(q, self.estimator, self.size, "AggregateKL", self.rows)
        value = (normalised(q.weights) * (found.aggregate - q.prior.log_prob(q.codes))).sum()
        # One datum unmasked says nothing of the others.
        return torch.where(living_data(q.weights, q.groups) > 1, value, 0)


class LogDensities:
    """Log-densities at the codes of a batch, in nats, each computed when it is first read.

    Args:
        rows: the conditionals.
        q: the batch.
        estimator: see the module's text.
        size: the number of data N.
    """

    def __init__(self, rows: Gaussians, q: AggregatePosterior, estimator: Estimator, size: Tensor):
        self._rows, self._q, self._estimator, self._size = rows, q, estimator, size
        self._every = torch.arange(len(q), device=q.weights.device)
        self._precision, log_det = _precision(rows)
        self._peak = -0.5 * (log_det + q.dim * _LOG_2_PI)

    @property
    def log_size(self) -> Tensor:
        """log N."""
        return self._size.log()

    @cached_property
    def own(self) -> Tensor:
        """log q(z_i | x_i), `(n,)`; of the mixture of its rows where a datum has several."""
        if self._q.groups is not None:
            return self._over_pairs(self._within, self._q.dim)
        delta = self._q.codes - self._rows.mean
        if self._rows.is_full:
            squares = (delta[:, None] @ self._precision.to(delta) @ delta[..., None])[:, 0, 0]
        else:
            squares = (delta.square() * self._precision).sum(1)
        return self._peak - squares / 2

    @cached_property
    def aggregate(self) -> Tensor:
        """The estimated log q(z_i), `(n,)`."""
        return self._over_pairs(self._shares, 1)

    @cached_property
    def by_dimension(self) -> Tensor:
        """The estimated log q(z_ik) of each dimension, `(n, d)`."""
        variance = self._rows.covariance
        assert variance is not None
        if self._rows.is_full:
            variance = variance.diagonal(dim1=-2, dim2=-1)

        def block(rows: Tensor, codes: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
            return log_marginals(codes, mean, variance, _log(self._shares(rows)))

        width, met = len(self._q) * self._q.dim, [self._rows.mean, variance]
        return by_blocks(block, [self._every, self._q.codes], width, met)

    def _over_pairs(self, shares: Callable[[Tensor], Tensor], width: int) -> Tensor:
        """The log of the sum of shares times densities log q(z_i | x_j), by blocks of rows i."""

        def block(
            rows: Tensor, codes: Tensor, mean: Tensor, precision: Tensor, peak: Tensor
        ) -> Tensor:
            squares = quadratic_forms(codes, mean, precision, self._rows.is_full)
            each = (peak[:, None] - squares / 2).T
            return torch.logsumexp(_log(shares(rows)) + each, -1)

        width, met = len(self._q) * width, [self._rows.mean, self._precision, self._peak]
        return by_blocks(block, [self._every, self._q.codes], width, met)

    def _same_datum(self, rows: Tensor) -> Tensor:
        ids = self._every if self._q.groups is None else self._q.groups
        return (ids[rows][:, None] == ids).to(self._q.weights)

    def _within(self, rows: Tensor) -> Tensor:
        """The weights `(b, n)` of q(z_i | x_j) within x_i's own datum."""
        same = self._same_datum(rows)
        of_datum = (same @ self._q.weights)[:, None]
        shares = same * self._q.weights / torch.where(of_datum > 0, of_datum, 1)
        return torch.where(of_datum > 0, shares, (rows[:, None] == self._every).to(shares))

    def _shares(self, rows: Tensor) -> Tensor:
        """The weights `(b, n)` of q(z_i | x_j) in q(z_i)."""
        q, own = self._q, self._within(rows)
        share = normalised(q.weights)
        if self._estimator == "MWS":
            whole = (share / self._size).expand_as(own)
        else:
            same = self._same_datum(rows)
            # A datum's share of all N: its weight in the batch times the batch's of the data.
            mine = (same @ share)[:, None] * living_data(q.weights, q.groups) / self._size
            others = (1 - same) * q.weights
            rest = others.sum(1, keepdim=True)
            whole = mine * own + (1 - mine) * others / torch.where(rest > 0, rest, 1)
        # Where no row has weight the estimate counts for nothing, but must not be log 0.
        return torch.where(whole.sum(1, keepdim=True) > 0, whole, own)


def log_densities(
    q: AggregatePosterior,
    estimator: Estimator,
    size: int | None,
    user: str,
    rows: int | None = None,
) -> LogDensities:
    """Estimates the log-densities of a batch's codes under its aggregate posterior.

    Args:
        q: the batch.
        estimator: see the module's text.
        size: the number of data N; what `rows` or `q` say by default.
        user: who asks, for messages.
        rows: the number of data where `size` does not say; `q` may say more.

    Raises:
        ValueError: if a site of the joint has no Gaussian density given the data, there is a
            single row, or `size` is less than the batch.
    """
    each = q.conditional
    if each is None or each.covariance is None or each.points:
        points = ", ".join(each.points) if each is not None and each.points else q.name
        raise ValueError(
            f"{user} needs the density of q(z | x), Gaussian given the data, which {points!r} of "
            f"sites {q.name!r} does not have (a deterministic or other guide, a site that others "
            "of the joint, or its own prior, are drawn given, or covariates): choose sites= "
            "without it, or use a divergence of draws, such as MMD()"
        )
    if len(q) < 2:
        raise ValueError(f"{user} needs two rows or more: a larger batch")
    if size is not None and size < len(q) and q.groups is None:
        raise ValueError(f"{user} size={size}: a batch of {len(q)} data is of more than that")
    return LogDensities(each, q, estimator, _population(q, size, rows))


def check(estimator: str, size: int | None, user: str) -> None:
    """Refuses arguments that no batch could meet."""
    if estimator not in get_args(Estimator):
        raise ValueError(
            f"{user} estimator={estimator!r}: use one of {', '.join(get_args(Estimator))}"
        )
    if size is not None and size < 1:
        raise ValueError(f"{user} size={size}: the number of data, one or more")


def _population(q: AggregatePosterior, size: int | None, rows: int | None) -> Tensor:
    """N, no fewer than the batch's own data."""
    weights = q.weights
    if size is not None:
        told = weights.new_full((), size)
    else:
        told = weights.detach().sum() if q.size is None else q.size.to(weights)
        told = told if rows is None else told.clamp_min(rows)
    return torch.maximum(told, living_data(weights, q.groups).clamp_min(1))


def _log(shares: Tensor) -> Tensor:
    # Weights carry a gradient where the guide enumerates a site, and at 0 the log's is infinite.
    present = shares > 0
    return torch.where(present, torch.where(present, shares, 1).log(), -torch.inf)


def _precision(rows: Gaussians) -> tuple[Tensor, Tensor]:
    """Inverse covariances, `(n, d)` or `(n, d, d)`, and the logs of their determinants, `(n,)`."""
    covariance = rows.covariance
    assert covariance is not None
    if not rows.is_full:
        return covariance.reciprocal(), covariance.log().sum(1)
    root = torch.linalg.cholesky(covariance.double())
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.cholesky_inverse(root), log_det.to(covariance)
