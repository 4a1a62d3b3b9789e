"""Maximum mean discrepancy between the aggregate posterior and the prior."""

import logging
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior, Gaussians
from ppl_vae.objectives.divergences.divergence import Divergence
from ppl_vae.objectives.divergences.kernels import RBF, Kernel
from ppl_vae.objectives.divergences.weighting import (
    cross_weights,
    normalised,
    pair_total,
    pair_weights,
)

__all__ = ["MMD", "expected_kernel"]

logger = logging.getLogger(__name__)

# All pairs cost n^2 d times the mixture's nodes; past this many terms random shifts are cheaper
# than a small encoder's own step.
_ALL_PAIRS = 200_000
_SHIFTS = 16

_Length = Tensor | float
PriorTerms = Literal["auto", "sampled", "closed"]
NoiseTerms = Literal["auto", "sampled", "integrated"]
Statistic = Literal["U", "V"]


class MMD(Divergence):
    r"""Squared maximum mean discrepancy, $\mathrm{MMD}^2$, of $q_w(z)$ and $p(z)$.

    $$D = \mathbb{E}_{q, q'} k(z, z') - 2\, \mathbb{E}_{q, p}\, k(z, y)
          + \mathbb{E}_{p, p'} k(y, y')$$

    The estimator is two choices. `prior`: the terms with y from draws, or in closed form (a prior
    that is Gaussian in the codes' coordinates). `noise`: the encoder's noise from the codes drawn,
    or integrated out (a guide that is Gaussian given the data). What is integrated has no variance
    left from the noise, and its gradient cannot be followed by widening q(z|x) until it equals
    p(z): with sampled noise that is the cheapest way down, and the code collapses. In a joint of
    sites, those that others depend on enter as draws and the rest are integrated.

    Every estimate is unbiased but the V-statistic, which counts each row against itself: its bias
    is $(1/n + 1/m)(k(0) - \mathbb{E}\, k)$ with m the prior draws (no 1/m for a closed-form
    prior), and shrinks q. An unbiased estimate is negative about half the time when q = p; it is
    not clamped.

    Integrating over all pairs costs $n^2 d$ for each node of the kernel's mixture of Gaussians
    (one for `RBF`); over R random cyclic shifts, each row against R others, $n R d$. A sampled
    prior is met by all rows either way, $n m d$ a node.

    Args:
        kernel: one of `RBF`, `IMQ`, `Laplacian`, `RationalQuadratic`, `MultiScale`.
        prior: "sampled", "closed", or "auto" for closed where the prior allows.
        noise: "sampled", "integrated", or "auto" for integrated where the guide allows.
        statistic: "U" (unbiased) or "V" (biased), for terms that are sampled.
        pairs: for integrated noise, "all" pairs of rows, or a number of shifts; "auto" takes all
            pairs while that is cheap and 16 shifts beyond.
        draws: prior draws m; as many as rows by default.

    Shape:
        codes `(n, d)`; the result is a scalar, without unit.

    Raises:
        ValueError: for an estimator the pair does not allow, or a single row where a pair is
            needed.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test, JMLR 13.
        Zhao, Song and Ermon (2017), InfoVAE, arXiv:1706.02262.
    """

    reads_past = True

    def __init__(
        self,
        kernel: Kernel | None = None,
        prior: PriorTerms = "auto",
        noise: NoiseTerms = "auto",
        statistic: Statistic = "U",
        pairs: Literal["auto", "all"] | int = "auto",
        draws: int | None = None,
    ):
        super().__init__()
        for value, name, allowed in (
            (prior, "prior", get_args(PriorTerms)),
            (noise, "noise", get_args(NoiseTerms)),
            (statistic, "statistic", get_args(Statistic)),
        ):
            if value not in allowed:
                choices = ", ".join(allowed)
                raise ValueError(f"{self._name} {name}={value!r}: use one of {choices}")
        if pairs not in ("auto", "all") and not (isinstance(pairs, int) and pairs > 0):
            raise ValueError(
                f"{self._name} pairs={pairs!r}: use 'auto', 'all' or a number of shifts"
            )
        if draws is not None and draws < 1:
            raise ValueError(f"{self._name} draws={draws}: one prior draw or more")
        self.kernel = RBF() if kernel is None else kernel
        self.prior: PriorTerms = prior
        self.noise: NoiseTerms = noise
        self.statistic: Statistic = statistic
        self.pairs = pairs
        self.draws = draws
        self.estimator: dict[str, str] = {}
        """By sites, the estimator the last call took, in words."""

    def forward(self, q: AggregatePosterior) -> Tensor:
        prior = self._closed_prior(q)
        rows = self._conditional(q)
        shifts = None if rows.covariance is None else self._shifts(q)
        self._announce(q, prior, rows, shifts)
        if prior is not None and rows.covariance is not None:
            return q.once(self, lambda: self._estimate(q, rows, prior, shifts))
        return self._estimate(q, rows, prior, shifts)

    def _estimate(
        self, q: AggregatePosterior, rows: Gaussians, prior: Gaussians | None, shifts: int | None
    ) -> Tensor:
        against = Gaussians(q.prior_draws(self.draws)) if prior is None else prior
        kernel, length = self._scaled_kernel(q, *([against.mean] if prior is None else []))
        within = self._within(kernel, length, rows, q.weights, q.groups, shifts, q.past)
        shared, groups = q.weights.new_ones(len(against)), None
        if q.aligned:  # a draw stands for its row's datum, which may be masked
            groups = torch.arange(len(against), device=shared.device) % len(q)
            shared = q.weights.detach()[groups]
        pairs = cross_weights(q.weights, len(against), q.aligned) * shared
        cross = (normalised(pairs) * expected_kernel(kernel, rows, against, length)).sum()
        if prior is None:
            own = self._within(kernel, length, against, shared, groups)
        else:
            own = expected_kernel(kernel, against, against, length).mean()
        # Without a pair, as with one row unmasked, there is attraction and no repulsion: no D.
        alone = (self.statistic == "V" and rows.covariance is None) or q.past is not None
        weight = q.weights.sum() if alone else pair_total(q.weights, q.groups)
        return torch.where(weight > 0, within - 2 * cross + own, 0)

    def _scaled_kernel(self, q: AggregatePosterior, *draws: Tensor) -> tuple[Kernel, _Length]:
        """The kernel and its squared length-scale at these codes and prior draws."""
        return self.kernel, self.kernel.squared_length(q.dim, q.codes, *draws)

    def _within(
        self,
        kernel: Kernel,
        length: _Length,
        rows: Gaussians,
        weights: Tensor,
        groups: Tensor | None = None,
        shifts: int | None = None,
        past: AggregatePosterior | None = None,
    ) -> Tensor:
        """The weighted mean of E k(z_i, z_j) over the pairs the statistic counts."""
        n = len(rows)
        integrated = rows.covariance is not None
        v_statistic = self.statistic == "V" and not integrated
        if n < 2 and not v_statistic:
            raise ValueError(
                f"{self._name} needs two rows or more for pairs: a larger batch, or "
                "statistic='V' with noise='sampled'"
            )
        if shifts is not None and shifts < n - 1:
            by = torch.randperm(n - 1, device=weights.device)[:shifts] + 1
            other = (torch.arange(n, device=weights.device) + by[:, None]) % n
            pairs = weights * weights[other] * ((n - 1) / shifts)
            if groups is not None:
                pairs = pairs * (groups != groups[other])
            values = _pairwise(kernel, rows, rows[other], length)
            # Of all pairs, not of these: a ratio of two random sums would be biased.
            weight = pair_total(weights, groups)
        else:
            pairs = pair_weights(weights, groups, diagonal=v_statistic)
            values = expected_kernel(kernel, rows, rows, length)
            weight = pairs.sum()
        total = (pairs * values).sum()
        if past is not None:
            # The mean over the batch paired with the batch and the past. Of two moving rows both
            # pass a gradient, of a pair with the past one of them: it counts twice.
            extra = self._against_past(kernel, length, rows, weights, shifts, past)
            total, weight = torch.stack([total, weight]) + 2 * extra - extra.detach()
        return total / torch.where(weight > 0, weight, 1)

    def _against_past(
        self,
        kernel: Kernel,
        length: _Length,
        rows: Gaussians,
        weights: Tensor,
        shifts: int | None,
        past: AggregatePosterior,
    ) -> Tensor:
        """Sums over pairs of a row and a past row: of weight times E k, and of weight, `(2,)`."""
        n, m = len(rows), len(past)
        before = self._conditional(past)
        if shifts is None or shifts >= m:
            pairs = weights[:, None] * past.weights
            values = expected_kernel(kernel, rows, before, length)
        else:
            other = _shifted(n, m, shifts, weights)
            pairs = weights * past.weights[other] * (m / shifts)
            values = _pairwise(kernel, rows, before[other], length)
        return torch.stack([(pairs * values).sum(), weights.sum() * past.weights.sum()])

    def _closed_prior(self, q: AggregatePosterior) -> Gaussians | None:
        if self.prior == "sampled":
            return None
        gaussian = q.prior.gaussian
        if gaussian is None and self.prior == "closed":
            raise ValueError(
                f"{self._name} prior='closed' needs a Gaussian prior, which sites {q.name!r} do "
                "not have: use prior='sampled' or 'auto'"
            )
        return gaussian

    def _conditional(self, q: AggregatePosterior) -> Gaussians:
        points = Gaussians(q.codes)
        if self.noise == "sampled":
            return points
        rows = q.conditional
        if rows is None and self.noise == "integrated":
            raise ValueError(
                f"{self._name} noise='integrated' needs a guide that is Gaussian given the data, "
                f"which sites {q.name!r} do not have: use noise='sampled' or 'auto'"
            )
        return points if rows is None else rows

    def _shifts(self, q: AggregatePosterior) -> int | None:
        if self.pairs == "all":
            return None
        if self.pairs == "auto":
            nodes = len(self.kernel.mixture()[0])
            return None if len(q) ** 2 * q.dim * nodes <= _ALL_PAIRS else _SHIFTS
        assert isinstance(self.pairs, int)
        return self.pairs

    def _announce(
        self, q: AggregatePosterior, prior: Gaussians | None, rows: Gaussians, shifts: int | None
    ) -> None:
        if q.name in self.estimator:
            return
        words = "prior sampled" if prior is None else "prior in closed form"
        if rows.covariance is None:
            words += f", encoder noise sampled ({self.statistic}-statistic)"
        else:
            words += f", encoder noise integrated over {self._over(shifts)}"
        self.estimator[q.name] = words
        logger.info("%s of %s: %s", self._name, q.name, words)

    def _over(self, shifts: int | None) -> str:
        return "all pairs" if shifts is None else f"{shifts} random shifts"

    @property
    def _name(self) -> str:
        return type(self).__name__


def _shifted(n: int, m: int, shifts: int, like: Tensor) -> Tensor:
    """For each of n rows as many of m others, by random cyclic shifts, `(shifts, n)`."""
    by = torch.randperm(m, device=like.device)[:shifts]
    return (torch.arange(n, device=like.device) + by[:, None]) % m


def expected_kernel(
    kernel: Kernel, a: Gaussians, b: Gaussians, squared_length: Tensor | float
) -> Tensor:
    r"""$\mathbb{E}\, k(z_i, y_j)$ for independent $z_i \sim a_i$, $y_j \sim b_j$, `(n, m)`.

    Points take the kernel itself. Otherwise, with $V = \Sigma_i + \Sigma_j$ and $\delta$ the
    difference of means, each node of the kernel's mixture, of variance $s = m_q h^2$, gives

    $$\det(I + V / s)^{-1/2} \exp\left(-\tfrac{1}{2} \delta^T (s I + V)^{-1} \delta\right).$$
    """
    if a.covariance is None and b.covariance is None:
        return kernel(_squared_distances(a.mean, b.mean), squared_length)
    covariance = None if a.covariance is None else a.covariance[:, None]
    return _pairwise(kernel, Gaussians(a.mean[:, None], covariance), b, squared_length)


def _pairwise(
    kernel: Kernel, a: Gaussians, b: Gaussians, squared_length: Tensor | float
) -> Tensor:
    """E k for rows that broadcast against each other, by the kernel's mixture."""
    delta = a.mean - b.mean
    weights, multipliers = kernel.mixture()
    scales = constant(multipliers, delta.dtype, delta.device) * squared_length
    nodes = constant(weights, delta.dtype, delta.device)
    if a.is_full or b.is_full:
        exponents = torch.stack([_full_exponent(delta, _sum(a, b), s) for s in scales], -1)
    else:
        variance = _sum(a, b)[..., None]
        wide = variance + scales
        terms = torch.log1p(variance / scales) + delta.square()[..., None] / wide
        exponents = -0.5 * terms.sum(-2)
    values = torch.expm1(exponents) if kernel.vanishes_at_zero else torch.exp(exponents)
    return (nodes * values).sum(-1)


@lru_cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Made once: a copy from the host at each step would stop a recorded step.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def _full_exponent(delta: Tensor, covariance: Tensor, s: Tensor) -> Tensor:
    eye = torch.eye(delta.shape[-1], dtype=delta.dtype, device=delta.device)
    factor = torch.linalg.cholesky(eye + covariance / s)
    solved = torch.linalg.solve_triangular(factor, delta[..., None], upper=False)[..., 0]
    log_root = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -solved.square().sum(-1) / (2 * s) - log_root


def _sum(a: Gaussians, b: Gaussians) -> Tensor:
    if a.is_full != b.is_full:
        a, b = (a, b) if a.is_full else (b, a)
        assert a.covariance is not None
        return a.covariance + (0 if b.covariance is None else torch.diag_embed(b.covariance))
    if a.covariance is None or b.covariance is None:
        present = b.covariance if a.covariance is None else a.covariance
        assert present is not None
        return present
    return a.covariance + b.covariance


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return torch.addmm(squares, a, b.T, alpha=-2).clamp_min(0)
