"""Normalising-flow encoders."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from ppl_vae.arguments import above_zero, whole
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body, check_widths, positive
from ppl_vae.distributions.flow import Family, build_flow, flow_from_noise
from ppl_vae.guides.encoder import NARROW, Encoder

__all__ = ["Flow"]


class Flow(Encoder):
    r"""Inverse autoregressive flow: a mean-field normal whose noise is bent by a flow.

    $$z = \mu(x) + \sigma(x) \odot f(\varepsilon; c(x)), \qquad
      \varepsilon \sim \mathcal N(0, I)$$

    Drawing takes one pass through the flow and gives the density with it; scoring any other
    point takes d passes. Needs zuko (the extra `flows`).

    Args:
        size: event shape of x.
        dim: dimension d of z.
        body: factory of the network, which returns $\mu$, $\sigma$ and c.
        flow: `"affine"` (IAF) or `"spline"` (neural spline flow, which bends
            $[-5, 5]^d$ and leaves the rest as it is).
        transforms: number of transformations composed.
        hidden: widths of the hidden layers of each.
        context: dimension of c.
        initial_scale: the $\sigma$ where the network's output is zero.

    Raises:
        ImportError: if zuko is not installed.

    References:
        Kingma et al. (2016), Improved variational inference with inverse autoregressive flow,
        arXiv:1606.04934.
        Durkan et al. (2019), Neural spline flows, arXiv:1906.04032.
    """

    def __init__(
        self,
        size: Sequence[int],
        dim: int,
        body: Body = MLP,
        flow: Family = "affine",
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        context: int = 32,
        initial_scale: float = NARROW,
    ) -> None:
        whole(self, transforms=transforms)
        whole(self, 0, context=context)
        check_widths(self, hidden)
        super().__init__(size, dim, body, outputs=2 * dim + context)
        above_zero(self, initial_scale=initial_scale)
        self.initial_scale = initial_scale
        self.flow = build_flow(flow, dim, context, transforms, hidden)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        d = self.dim
        features = self.features(x)
        loc, raw, context = features.split([d, d, features.shape[-1] - 2 * d], -1)
        return flow_from_noise(self.flow, context, loc, positive(raw, self.initial_scale))
