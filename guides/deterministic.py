"""An encoder without noise."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body
from ppl_vae.guides.encoder import Encoder

__all__ = ["Deterministic"]


class Deterministic(Encoder):
    r"""Encoder that maps each x to one z: a point mass $\delta(z - \mu(x))$.

    It has no density against the prior's: use it where no KL is in the loss (`alpha=1` of
    InfoVAE, WAE, the plain auto-encoder).

    Args:
        size: event shape of x.
        dim: dimension d of z.
        body: factory of the network.
    """

    def __init__(self, size: Sequence[int], dim: int, body: Body = MLP) -> None:
        super().__init__(size, dim, body, outputs=dim)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Delta(self.features(x), event_dim=1)
