"""A normalising flow as prior."""

from collections.abc import Sequence

import pyro.distributions as dist

from ppl_vae.arguments import whole
from ppl_vae.bodies.body import check_widths
from ppl_vae.distributions.flow import Family, Flow, build_flow
from ppl_vae.priors.prior import Prior

__all__ = ["FlowPrior"]


class FlowPrior(Prior):
    r"""Autoregressive flow: the law of z where $f(z) \sim \mathcal N(0, I)$, f learned.

    $$\log p(z) = \log \mathcal N(f(z) \mid 0, I)
      + \log \Big| \det \frac{\partial f}{\partial z} \Big|$$

    Scoring takes one pass through the flow, drawing takes d. Needs zuko (the extra `flows`).

    Args:
        dim: dimension d of z.
        flow: `"affine"` (masked autoregressive flow) or `"spline"` (neural spline flow, which
            bends $[-5, 5]^d$ and leaves the rest as it is).
        transforms: number of transformations composed.
        hidden: widths of the hidden layers of each.

    Raises:
        ImportError: if zuko is not installed.

    References:
        Papamakarios, Pavlakou and Murray (2017), Masked autoregressive flow for density
        estimation, arXiv:1705.07057.
        Durkan et al. (2019), Neural spline flows, arXiv:1906.04032.
        Chen et al. (2017), Variational lossy autoencoder, arXiv:1611.02731.
    """

    def __init__(
        self,
        dim: int,
        flow: Family = "spline",
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__(dim)
        whole(self, transforms=transforms)
        check_widths(self, hidden)
        self.flow = build_flow(flow, dim, 0, transforms, hidden)

    def forward(self) -> dist.TorchDistribution:
        return Flow(self.flow())
