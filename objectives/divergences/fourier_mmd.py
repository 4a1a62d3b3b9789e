"""MMD by random Fourier features, linear in the number of rows."""

import torch
from torch import Tensor

from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior
from ppl_vae.objectives.divergences.diagonal import constant
from ppl_vae.objectives.divergences.expectation import expected_kernel
from ppl_vae.objectives.divergences.gaussians import Gaussians
from ppl_vae.objectives.divergences.kernels import Kernel
from ppl_vae.objectives.divergences.mmd import MMD, NoiseTerms, PriorTerms, Statistic
from ppl_vae.objectives.divergences.weighting import data_weights, normalised

__all__ = ["FourierMMD"]


class FourierMMD(MMD):
    r"""$\mathrm{MMD}^2$ between characteristic functions at random frequencies.

    $$D = \frac{k(0)}{R} \sum_r \left| \psi_q(\omega_r) - \psi_p(\omega_r) \right|^2, \qquad
      \psi(\omega) = \mathbb{E}\, e^{i \omega \cdot z},$$

    with $\omega_r$ drawn afresh at each call from the kernel's spectral density, the mixture of
    normals $N(0, I / m_q h^2)$ over the nodes of `Kernel.mixture` (Bochner). A Gaussian row has
    $\mathbb{E}\, e^{i \omega \cdot z_i} = \exp(i \omega \cdot \mu_i -
    \omega^T \Sigma_i \omega / 2)$: the prior's term and the encoder's noise are in closed form as
    in `MMD`.

    * **Bias.** None, over rows and frequencies, but for the V-statistic, as `MMD`.
    * **Variance.** `MMD`'s, and $\mathrm{Var}_\omega(k(0) |\psi_q - \psi_p|^2) / R$ of the
      frequencies at most (they are stratified over the mixture's nodes). In high d, R frequencies
      see R directions: a distribution that differs from p in few of them is seen rarely.
    * **Cost.** $n R d$, where all pairs cost $n^2 d$; $n^2 R$ more where rows have `groups`.

    Args:
        kernel: one of `RBF`, `IMQ`, `Laplacian`, `RationalQuadratic`, `MultiScale`.
        features: R, the number of frequencies.
        prior: "sampled", "closed", or "auto" for closed where the prior is Gaussian.
        noise: "sampled", "integrated", or "auto" for integrated where the guide is Gaussian.
        statistic: "U" (unbiased) or "V" (biased), for terms that are sampled.
        draws: prior draws m; as many as rows by default.

    Shape:
        codes `(n, d)`; the result is a scalar, without unit.

    Raises:
        ValueError: as `MMD`.

    References:
        Rahimi and Recht (2007), Random features for large-scale kernel machines, NeurIPS.
    """

    def __init__(
        self,
        kernel: Kernel | None = None,
        features: int = 512,
        prior: PriorTerms = "auto",
        noise: NoiseTerms = "auto",
        statistic: Statistic = "U",
        draws: int | None = None,
    ):
        super().__init__(kernel, prior, noise, statistic, "all", draws)
        if features < 1:
            raise ValueError(f"FourierMMD features={features}: one frequency or more")
        self.features = features

    def _estimate(
        self, q: AggregatePosterior, rows: Gaussians, prior: Gaussians | None, shifts: int | None
    ) -> Tensor:
        against, shared = self._against(q, prior)
        kernel, length = self._scaled_kernel(q, against.mean, shared, prior is None)
        omega = self._frequencies(kernel, length, q.codes)
        ours, theirs = _waves(rows, omega), _waves(against, omega)
        total, m = q.weights.sum(), len(against)
        cross = ((q.weights[:, None] * ours).sum(1) * (shared[:, None] * theirs).sum(1)).sum(0)
        pairs = total * shared.sum()
        counts = self._counts(q, rows)
        if prior is not None:
            own = theirs[:, 0].square().sum(0)
        else:
            row = torch.arange(m, device=total.device) % len(q)
            self._need_two(m, of_prior=True)
            own, weight = self._mean_square(theirs, shared, row if q.aligned else None)
            counts = counts & (weight > 0)
            if q.aligned:
                weights = q.weights[row] * shared
                cross = cross - (weights[:, None] * ours[:, row] * theirs).sum((0, 1))
                pairs = pairs - weights.sum()
        integrated = rows.covariance is not None
        self._need_two(len(q), integrated)
        before = None if q.past is None else _waves(self._conditional(q.past), omega)
        within, _ = self._mean_square(ours, q.weights, q.groups, integrated, q.past, before)
        values = within - 2 * cross / torch.where(pairs > 0, pairs, 1) + own
        with torch.no_grad():  # one draw tells: at random frequencies it would drown in noise
            first = against[torch.arange(1, device=total.device)]
            near = normalised(q.weights) * expected_kernel(kernel, rows, first, length)[:, 0]
            usual = expected_kernel(kernel, against, first, length).mean()
        self._note_reach(q, near, usual, counts)
        return torch.where(counts, kernel.at_zero * values.mean(), 0)

    def _over(self, shifts: int | None) -> str:
        return f"{self.features} random frequencies"

    def _frequencies(self, kernel: Kernel, length: Tensor | float, like: Tensor) -> Tensor:
        """Draws omega, `(R, d)`."""
        weights, multipliers = (constant(v, like.dtype, like.device) for v in kernel.mixture())
        ends = weights.cumsum(0) / weights.sum()
        first = torch.rand((), dtype=like.dtype, device=like.device)
        index = torch.arange(self.features, device=like.device)
        node = torch.searchsorted(ends, (index + first) / self.features)
        multiplier = multipliers[node.clamp_max(len(multipliers) - 1)]
        normal = torch.randn(self.features, like.shape[1], dtype=like.dtype, device=like.device)
        return normal / (multiplier[:, None] * length).sqrt()

    def _mean_square(
        self,
        waves: Tensor,
        weights: Tensor,
        groups: Tensor | None,
        integrated: bool = False,
        past: AggregatePosterior | None = None,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """|psi|^2 by frequency, from the pairs the statistic counts, and the pairs' weight.

        See `MMD` for the past.
        """
        weighted = weights[:, None] * waves
        values, total = weighted.sum(1).square().sum(0), weights.sum().square()
        if groups is not None:
            by_datum = torch.zeros_like(weighted).index_add(1, groups, weighted)
            values = values - by_datum.square().sum((0, 1))
            total = total - data_weights(weights, groups).square().sum()
        elif self.statistic == "U" or integrated:
            values = values - weighted.square().sum((0, 1))
            total = total - weights.square().sum()
        if past is not None and before is not None:
            extra = (weighted.sum(1) * (past.weights[:, None] * before).sum(1)).sum(0)
            pairs = weights.sum() * past.weights.sum()
            values = values + 2 * extra - extra.detach()
            total = total + 2 * pairs - pairs.detach()
        return values / torch.where(total > 0, total, 1), total


def _waves(rows: Gaussians, omega: Tensor) -> Tensor:
    """Real and imaginary part of E exp(i omega . z) by row and frequency, `(2, n, R)`."""
    phase = rows.mean @ omega.T
    waves = torch.stack([phase.cos(), phase.sin()])
    if rows.covariance is None:
        return waves
    if rows.is_full:
        variance = torch.einsum("rk,nkl,rl->nr", omega, rows.covariance, omega)
    else:
        variance = rows.covariance @ omega.square().T
    return waves * torch.exp(-variance / 2)
