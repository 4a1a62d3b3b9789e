"""Encoders onto the sphere."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn

from ppl_vae import distributions
from ppl_vae.arguments import above_zero, whole
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body, positive
from ppl_vae.guides.encoder import NARROW, Encoder

__all__ = ["VonMisesFisher"]


class VonMisesFisher(Encoder):
    r"""Von Mises-Fisher encoder onto the unit sphere of $\mathbb R^d$.

    $$q(z \mid x) \propto e^{z^\top \mu(x) / s(x)^2}, \qquad \|\mu(x)\| = 1$$

    with respect to the surface measure. For a small s, the coordinates across $\mu$ have
    about the standard deviation s.

    Args:
        size: event shape of x.
        dim: dimension d of the space around the sphere, at least 2.
        body: factory of the network.
        initial_scale: the s where the network's output is zero, so about the one before
            training. It never goes below 0.01.

    Raises:
        ValueError: if there are fewer than 2 dimensions.

    References:
        Davidson et al. (2018), Hyperspherical variational auto-encoders, arXiv:1804.00891.
    """

    def __init__(
        self,
        size: Sequence[int],
        dim: int,
        body: Body = MLP,
        initial_scale: float = NARROW,
    ) -> None:
        whole(self, 2, dim=dim)
        super().__init__(size, dim, body, outputs=dim + 1)
        above_zero(self, initial_scale=initial_scale)
        self.initial_scale = initial_scale

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        direction, raw = self.features(x).split([self.dim, 1], -1)
        scale = positive(raw.squeeze(-1), self.initial_scale, floor=0.01)
        direction = nn.functional.normalize(direction, dim=-1)
        return distributions.VonMisesFisher(direction, scale.square().reciprocal())
