"""The Stein variational direction and the kernelised Stein discrepancy."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior
from ppl_vae.objectives.divergences.blocks import by_blocks
from ppl_vae.objectives.divergences.divergence import Divergence, Reads
from ppl_vae.objectives.divergences.expectation import squared_distances
from ppl_vae.objectives.divergences.kernels import RBF, Kernel, Laplacian, MultiScale
from ppl_vae.objectives.divergences.reach import NO_REACH
from ppl_vae.objectives.divergences.weighting import partner_weights

__all__ = ["Stein"]

Statistic = Literal["U", "V"]


class Stein(Divergence):
    r"""Stein variational gradient descent on the codes; its value is the squared KSD.

    The gradient moves codes along the direction that lowers $\mathrm{KL}(q(z) \Vert p(z))$
    fastest among functions of the kernel's space,

    $$\phi(z_i) = \frac{1}{n} \sum_j \left[ k(z_j, z_i) \nabla \log p(z_j)
        + \nabla_{z_j} k(z_j, z_i) \right],$$

    through the surrogate $s = -\frac{1}{n} \sum_i z_i \cdot \mathrm{sg}(\phi(z_i))$, to be
    minimised (sg stops the gradient). The value reported is $\mathrm{KSD}^2 + s - \mathrm{sg}(s)$
    with the kernelised Stein discrepancy

    $$\mathrm{KSD}^2 = \mathbb{E}_{z, z'} \left[ k\, \sigma \cdot \sigma'
        + \sigma \cdot \nabla_{z'} k + \sigma' \cdot \nabla_z k + \nabla_z \cdot \nabla_{z'} k
      \right], \qquad \sigma = \nabla \log p(z),$$

    the rate at which that direction lowers the KL; the gradient is not the gradient of the value.

    * **Bias.** The U-statistic leaves out j = i, in $\phi$ and in KSD^2: both are unbiased, and
      the value is negative about half the time when q = p. The V-statistic, the papers', keeps
      j = i: $\phi(z_i)$ gains $k(0) \nabla \log p(z_i) / n$, which pulls every code to the mode
      and shrinks q, the more the higher d; KSD^2 gains
      $(k(0)\, \mathbb{E} \lVert \sigma \rVert^2 - 2 d\, k'(0)) / n$ less its own value over n
      ($k'$ the derivative in $r^2$). On a fixed set of particles take V: with U nothing holds back
      a particle that the others push away.
    * **Variance.** Of order 1/n where q differs from p and 1/n^2 at q = p. No prior draws are
      needed. Encoder noise is sampled: start the encoder narrow, or prefer `MMD`, which can
      integrate it, where the noise hides the pull of the reconstruction.
    * **Cost.** $n^2 d$, and one evaluation of the prior's score at the codes.

    The score is taken at detached codes, not through the guide, so that an autoregressive guide's
    total derivative does not enter. Weights that have a gradient (a site the guide enumerates)
    descend KSD^2 itself. A prior's own parameters get a gradient only where codes are
    compared in the prior's units (Normal and Laplace).

    Args:
        kernel: a kernel that is smooth at zero: `RBF`, `IMQ`, `RationalQuadratic`, or a
            `MultiScale` of those.
        statistic: "U" (unbiased) or "V" (the papers').

    Shape:
        codes `(n, d)`; the result is a scalar, in nats per unit of the direction's length.

    Raises:
        ValueError: for a kernel that is not smooth at zero, a single row with a U-statistic, or a
            prior without a density or without a score (draws alone, uniform).

    References:
        Liu and Wang (2016), Stein variational gradient descent, arXiv:1608.04471.
        Liu, Lee and Jordan (2016), A kernelized Stein discrepancy, arXiv:1602.03253.
        Zhao, Song and Ermon (2017), InfoVAE, arXiv:1706.02262, which prints the surrogate with a
        plus.
    """

    def __init__(self, kernel: Kernel | None = None, statistic: Statistic = "U"):
        super().__init__()
        if statistic not in get_args(Statistic):
            raise ValueError(f"Stein statistic={statistic!r}: use one of U, V")
        self.kernel = RBF() if kernel is None else kernel
        inner = self.kernel.kernel if isinstance(self.kernel, MultiScale) else self.kernel
        if isinstance(inner, Laplacian):
            raise ValueError(
                "Stein needs a kernel that is smooth at zero, which Laplacian is not: use RBF, "
                "IMQ or RationalQuadratic"
            )
        self.statistic: Statistic = statistic
        self.out_of_reach: dict[str, Tensor] = {}

    @property
    def reads(self) -> Reads:
        return "score"

    def of_unit_shift(self, dim: int) -> float:
        r"""The work that the direction does over the shift, $\tfrac12 \mathbb{E}\, k$ over pairs
        of prior draws: the gradient is its and not the value's (which is E k)."""
        pair = torch.tensor([[0.0], [math.sqrt(2)]]).expand(2, dim)
        length = float(self.kernel.squared_length(dim, pair))
        return 0.5 * math.fsum(
            w * (m * length / (m * length + 2)) ** (dim / 2)
            for w, m in zip(*self.kernel.mixture(), strict=True)
        )

    def forward(self, q: AggregatePosterior) -> Tensor:
        if len(q) < 2 and self.statistic == "U":
            raise ValueError(
                "Stein needs two rows or more for pairs: a larger batch, or statistic='V'"
            )
        codes = q.codes.detach()
        scores = q.prior.score(codes)
        weights = q.weights.detach()
        length = self.kernel.squared_length(q.dim, codes, weights=weights, groups=q.groups)
        found = _by_row(
            self.kernel,
            length,
            codes,
            scores,
            lambda rows: partner_weights(weights, q.groups, self.statistic == "V", rows),
        )
        direction, each = found.split([q.dim, 3], 1)
        discrepancy, near, total = (weights[:, None] * each).sum(0)
        self.out_of_reach[q.name] = (near <= NO_REACH * self.kernel.at_zero * total) & (total > 0)
        whole = torch.where(total > 0, total, 1)
        value = discrepancy / whole
        surrogate = -(weights * (q.codes * direction).sum(1)).sum() / whole
        if q.weights.requires_grad:
            # Weights that pass a gradient, of enumerated rows, follow the discrepancy: a ratio of
            # two quadratic forms in them, whose gradients are twice their rows.
            slope = 2 * (each[:, 0] - value * each[:, 2]) / whole
            surrogate = surrogate + (q.weights * slope).sum()
        return value + surrogate - surrogate.detach()


@torch.no_grad()
def _by_row(
    kernel: Kernel,
    length: Tensor | float,
    codes: Tensor,
    scores: Tensor,
    partners: Callable[[Tensor], Tensor],
) -> Tensor:
    """Each row's weighted sums over its partners: the direction at its code, d numbers, then
    KSD^2's kernel, the kernel itself, and the weights, `(n, d + 3)`.

    With t = |x - y|^2 and k' = dk/dt: grad_x k = 2 k' (x - y) = -grad_y k, and
    div_x grad_y k = -2 d k' - 4 t k''.
    """
    d = codes.shape[1]
    # Differences alone count; about their middle no large numbers cancel.
    codes, centred = codes - codes.mean(0), scores - scores.mean(0)
    own = (centred * codes).sum(1)

    def block(rows: Tensor) -> Tensor:
        z, s, weights = codes[rows], centred[rows], partners(rows)
        distances = squared_distances(z, codes)
        value, first, second = _derivatives(kernel, distances, length)
        pull = weights * first
        direction = (weights * value) @ scores + 2 * (pull @ codes - pull.sum(1)[:, None] * z)
        # (s_i - s_j) . (z_i - z_j)
        difference = own[rows][:, None] + own - s @ codes.T - z @ centred.T
        stein_kernel = (
            value * (scores[rows] @ scores.T)
            - 2 * first * difference
            - 2 * d * first
            - 4 * distances * second
        )
        sums = [(weights * each).sum(1) for each in (stein_kernel, value)]
        return torch.cat([direction, torch.stack([*sums, weights.sum(1)], 1)], 1)

    return by_blocks(block, [torch.arange(len(codes), device=codes.device)], len(codes))


def _derivatives(
    kernel: Kernel, squared_distance: Tensor, squared_length: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel and its first two derivatives in r^2, elementwise and detached."""
    with torch.enable_grad():
        t = squared_distance.detach().requires_grad_()
        value = kernel(t, squared_length)
        (first,) = torch.autograd.grad(value.sum(), t, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), t)
    return value.detach(), first.detach(), second
