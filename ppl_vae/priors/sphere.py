"""A prior on the sphere."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import distributions
from ppl_vae.arguments import whole
from ppl_vae.bodies.body import positive
from ppl_vae.priors.prior import Prior

__all__ = ["VonMisesFisher"]


class VonMisesFisher(Prior):
    r"""Von Mises-Fisher prior on the unit sphere of $\mathbb R^d$.

    $$p(z) \propto e^{\kappa \mu^\top z}$$

    with respect to the surface measure; by default uniform. The codes must lie on the sphere:
    pair it with `ppl_vae.guides.VonMisesFisher`, or with an objective that evaluates no KL
    (`alpha=1`).

    Args:
        dim: dimension d of the space around the sphere, at least 2.
        concentration: the $\kappa \ge 0$; where it is learned, its start value.
        learnable: whether the mean direction $\mu$, at the start the first axis, and the
            concentration are learned.

    Raises:
        ValueError: if there are fewer than 2 dimensions, or the concentration is negative
            or not finite, or learned and 0.

    References:
        Davidson et al. (2018), Hyperspherical variational auto-encoders, arXiv:1804.00891.
    """

    direction: Tensor
    kappa: Tensor

    def __init__(self, dim: int, concentration: float = 0.0, learnable: bool = False) -> None:
        whole(self, 2, dim=dim)
        super().__init__(dim)
        if not 0 <= concentration < math.inf or (learnable and concentration == 0):
            raise ValueError(
                f"VonMisesFisher: concentration must be {'above' if learnable else 'at least'} 0 "
                f"and finite, got {concentration:g}"
            )
        self.concentration, self.learnable = concentration, learnable
        direction = torch.eye(dim)[0]
        if learnable:
            self.direction = nn.Parameter(direction)
            self.kappa = nn.Parameter(torch.tensor(0.0))
        else:
            self.register_buffer("direction", direction, persistent=False)
            self.constant("kappa", concentration, ())

    def forward(self) -> dist.TorchDistribution:
        direction = nn.functional.normalize(self.direction, dim=-1)
        kappa = positive(self.kappa, self.concentration) if self.learnable else self.kappa
        return distributions.VonMisesFisher(direction, kappa)
