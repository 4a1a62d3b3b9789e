"""Maximum mean discrepancy between the aggregate posterior and the prior."""

import logging
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ppl_vae.arguments import instance
from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior
from ppl_vae.objectives.divergences.divergence import Divergence
from ppl_vae.objectives.divergences.expectation import expected_kernel, pair_sums
from ppl_vae.objectives.divergences.gaussians import Gaussians
from ppl_vae.objectives.divergences.kernels import RBF, Kernel
from ppl_vae.objectives.divergences.reach import is_out_of_reach
from ppl_vae.objectives.divergences.shifted import sum_across, sum_within
from ppl_vae.objectives.divergences.weighting import (
    cross_weights,
    living_data,
    normalised,
    pair_total,
)

__all__ = ["MMD"]

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
    or integrated out (a guide that is Gaussian given the data). All of them pull equally, on the
    encoder's spread too: widening q(z|x) until it equals p(z) is a way down under each. What
    integration takes away is the noise, which on the gradient of the means is several times the
    signal near q = p, hides the pull of the reconstruction there, and keeps the code collapsed
    for long. In a joint of sites, those that others depend on enter as draws and the rest are
    integrated.

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
        instance(f"{self._name} kernel", self.kernel, Kernel, "RBF()")
        self.prior: PriorTerms = prior
        self.noise: NoiseTerms = noise
        self.statistic: Statistic = statistic
        self.pairs = pairs
        self.draws = draws
        self.out_of_reach: dict[str, Tensor] = {}
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

    def of_unit_shift(self, dim: int) -> float | None:
        # Two rows as far apart as draws of the prior, for a bandwidth that looks at them.
        pair = torch.tensor([[0.0], [math.sqrt(2)]]).expand(2, dim)
        length = float(self.kernel.squared_length(dim, pair))
        variances = [(w, m * length) for w, m in zip(*self.kernel.mixture(), strict=True)]
        return -2 * math.fsum(
            w * (s / (s + 2)) ** (dim / 2) * math.expm1(-0.5 / (s + 2)) for w, s in variances
        )

    def _estimate(
        self, q: AggregatePosterior, rows: Gaussians, prior: Gaussians | None, shifts: int | None
    ) -> Tensor:
        against, shared = self._against(q, prior)
        kernel, length = self._scaled_kernel(q, against.mean, shared, prior is None)
        within = self._within(kernel, length, rows, q, shifts)
        near, met = pair_sums(
            kernel,
            rows,
            against,
            length,
            lambda block: cross_weights(q.weights, len(against), q.aligned, block) * shared,
        ).unbind(1)
        near = near / _or_one(met.sum())
        cross = near.sum()
        counts = self._counts(q, rows)
        if prior is not None:
            own = expected_kernel(kernel, against, against, length).mean()
        else:
            own, total = self._of_prior(kernel, length, against.mean, shared, q)
            counts = counts & (total > 0)
        self._note_reach(q, near, own, counts)
        return torch.where(counts, within - 2 * cross + own, 0)

    def _against(self, q: AggregatePosterior, prior: Gaussians | None) -> tuple[Gaussians, Tensor]:
        """What stands for the prior, its draws or itself in closed form, and the weights."""
        if prior is not None:
            return prior, q.weights.new_ones(1)
        draws, weights = q.weighted_prior_draws(self.draws)
        return Gaussians(draws), weights

    def _counts(self, q: AggregatePosterior, rows: Gaussians) -> Tensor:
        """Whether there is a pair: with one row unmasked nothing repels, and there is no D."""
        alone = (self.statistic == "V" and rows.covariance is None) or q.past is not None
        return (q.weights.sum() if alone else pair_total(q.weights, q.groups)) > 0

    def _note_reach(
        self, q: AggregatePosterior, near: Tensor, own: Tensor, counts: Tensor
    ) -> None:
        """Notes whether a share of codes is so far from the prior that the kernel pulls none."""
        if not self.kernel.is_distance:
            self.out_of_reach[q.name] = is_out_of_reach(near, own, q.weights) & counts

    def _need_two(self, n: int, integrated: bool = False, of_prior: bool = False) -> None:
        """Refuses a single row, or a single prior draw, where only pairs of two count."""
        if n > 1 or (self.statistic == "V" and not integrated):
            return
        if of_prior and self.draws is not None:
            raise ValueError(
                f"{self._name} draws={self.draws} leaves the prior's draws without a pair: make "
                "it 2 or more, or take prior='closed' or statistic='V'"
            )
        if of_prior:
            raise ValueError(
                f"{self._name} has one prior draw, which leaves it without a pair: give two or "
                "more, or take statistic='V'"
            )
        raise ValueError(
            f"{self._name} needs two rows or more for pairs: a larger batch, or "
            "statistic='V' with noise='sampled'"
        )

    def _scaled_kernel(
        self, q: AggregatePosterior, against: Tensor, shared: Tensor, are_draws: bool
    ) -> tuple[Kernel, _Length]:
        """The kernel and its squared length-scale at these codes and, if sampled, prior draws."""
        if not are_draws:
            length = self.kernel.squared_length(
                q.dim, q.codes, weights=q.weights.detach(), groups=q.groups
            )
            return self.kernel, length
        # A datum counts as a draw does, whatever the weights' unit.
        weights = normalised(q.weights.detach()) * living_data(q.weights, q.groups)
        groups = None
        if q.groups is not None:
            own = torch.arange(len(against), device=shared.device)
            groups = torch.cat([q.groups, len(q) + own])
        length = self.kernel.squared_length(
            q.dim, q.codes, against, weights=torch.cat([weights, shared]), groups=groups
        )
        return self.kernel, length

    def _of_prior(
        self, kernel: Kernel, length: _Length, draws: Tensor, shared: Tensor, q: AggregatePosterior
    ) -> tuple[Tensor, Tensor]:
        """The mean of k(y, y') over pairs of prior draws, and the pairs' weight."""
        m = len(draws)
        self._need_two(m, of_prior=True)
        groups = torch.arange(m, device=shared.device) % len(q) if q.aligned else None
        total, weight = sum_within(
            kernel, length, Gaussians(draws), shared, groups, diagonal=self.statistic == "V"
        )
        return total / _or_one(weight), weight

    def _within(
        self,
        kernel: Kernel,
        length: _Length,
        rows: Gaussians,
        q: AggregatePosterior,
        shifts: int | None,
    ) -> Tensor:
        """The weighted mean of E k(z_i, z_j) over the pairs the statistic counts."""
        diagonal = self.statistic == "V" and rows.covariance is None
        self._need_two(len(q), rows.covariance is not None)
        sums = sum_within(
            kernel, length, rows, q.weights, q.groups, q.data, diagonal=diagonal, shifts=shifts
        )
        if q.past is not None:
            # The mean over the batch paired with the batch and the past. Of two moving rows both
            # pass a gradient, of a pair with the past one of them: it counts twice.
            past = self._conditional(q.past)
            extra = sum_across(kernel, length, rows, q.weights, past, q.past.weights, shifts)
            sums = sums + 2 * extra - extra.detach()
        total, weight = sums
        return total / _or_one(weight)

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
        words = "prior sampled" if prior is None else "prior in closed form"
        if rows.covariance is None:
            words += f", encoder noise sampled ({self.statistic}-statistic)"
        else:
            words += f", encoder noise integrated over {self._over(shifts)}"
        if self.estimator.get(q.name) == words:
            return
        self.estimator[q.name] = words
        logger.info("%s of %s: %s", self._name, q.name, words)

    def _over(self, shifts: int | None) -> str:
        return "all pairs" if shifts is None else f"{shifts} random shifts"

    @property
    def _name(self) -> str:
        return type(self).__name__


def _or_one(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, 1)
