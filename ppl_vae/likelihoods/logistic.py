"""The discretised logistic mixture as a likelihood of independent pixels."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.arguments import whole
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body, apply_body
from ppl_vae.distributions.logistic import DiscretizedLogisticMixture
from ppl_vae.likelihoods.likelihood import Likelihood

__all__ = ["LogisticMixture"]


class LogisticMixture(Likelihood):
    r"""Pixels independent given z, each a discretised logistic mixture over grey levels.

    For data that are levels of brightness and not binary: x must lie on the grid
    $\{0, 1/(L-1), \ldots, 1\}$. See `DiscretizedLogisticMixture` for the formula.

    Args:
        dim: dimension d of z.
        size: event shape of x; three dimensions are read as (channels, height, width), fewer as
            positions of one channel.
        body: factory of the network.
        components: number K of logistic distributions in each pixel.
        levels: number L of grey levels.

    Example:
        >>> p = LogisticMixture(10, (3, 8, 8))(torch.zeros(5, 10))
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([3, 8, 8]))
    """

    def __init__(
        self,
        dim: int,
        size: Sequence[int],
        body: Body = MLP,
        components: int = 5,
        levels: int = 256,
    ) -> None:
        whole(self, components=components)
        whole(self, 2, levels=levels)
        channels, *place = size if len(size) == 3 else (1, *size)
        count = DiscretizedLogisticMixture.outputs(channels, components)
        # Parameters for each position, not for each element of x as the base class has it.
        super().__init__(dim, size, lambda i, _: body(i, torch.Size((count, *place))))
        self.channels, self.components, self.levels = channels, components, levels

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        y = apply_body(self.network, z, (self.dim,))
        return DiscretizedLogisticMixture.from_network(
            y,
            self.channels,
            self.components,
            positions=y.dim() - z.dim(),
            levels=self.levels,
            size=self.size,
        )
