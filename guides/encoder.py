"""The base class of encoders."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.arguments import shape
from ppl_vae.bodies.body import Body, apply_body
from ppl_vae.program.modules import Portable

__all__ = ["NARROW", "Encoder"]

NARROW = math.exp(-2.0)
"""Where scales start. Encoder noise is the cheapest way to match a prior, so an encoder that
starts as wide as the prior may never learn to say anything; one that starts narrow does."""


class Encoder(Portable, ABC):
    r"""A conditional distribution $q(z \mid x)$: a module whose call returns it.

    A subclass says how many numbers it needs of its network and turns them into a distribution.

    Args:
        size: event shape of x.
        dim: dimension d of z.
        body: factory of the network, see `ppl_vae.bodies`.
        outputs: how many numbers the network returns for each x.

    Shape:
        x (*batch, *size) to a distribution of batch shape `batch` and event shape (d,).
    """

    def __init__(self, size: int | Sequence[int], dim: int, body: Body, outputs: int) -> None:
        super().__init__()
        size = shape(self, size, dim)
        if not isinstance(dim, int) or dim < 1:
            raise ValueError(
                f"the latent dimension must be a whole number of at least 1, got {dim}; several "
                "layers of codes take a HierarchicalVAE with a Ladder"
            )
        self.size = torch.Size(size)
        self.dim = dim
        self.network = body(self.size, torch.Size([outputs]))

    def features(self, x: Tensor) -> Tensor:
        """The network's output, of shape (*batch, outputs)."""
        return apply_body(self.network, x, self.size)

    @abstractmethod
    def forward(self, x: Tensor) -> TorchDistribution: ...
