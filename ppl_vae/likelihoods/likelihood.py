"""The base class of likelihoods."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.arguments import shape, whole
from ppl_vae.bodies.body import Body, apply_body
from ppl_vae.program.modules import Portable

__all__ = ["Likelihood", "Link", "linked"]

Link = Literal["identity", "sigmoid"]
"""What turns a network's output into a mean: nothing, or a squashing into (0, 1)."""


class Likelihood(Portable, ABC):
    r"""A conditional distribution $p(x \mid z)$: a module whose call returns it.

    The `support` of the returned distribution says which data it admits.

    Args:
        dim: dimension d of z.
        size: event shape of x.
        body: factory of the network, see `ppl_vae.bodies`.
        outputs: how many numbers the network returns for each element of x.

    Shape:
        z (*batch, d) to a distribution of batch shape `batch` and event shape `size`.
    """

    def __init__(self, dim: int, size: Sequence[int], body: Body, outputs: int = 1) -> None:
        super().__init__()
        size = shape(self, size, dim)
        whole(self, dim=dim)
        self.dim = dim
        self.size = torch.Size(size)
        self.outputs = outputs
        # Several numbers for each pixel are so many times the channels, which convolutions make.
        head, *tail = self.size or (1,)
        self.network = body(torch.Size([dim]), torch.Size([outputs * head, *tail]))

    def raw(self, z: Tensor) -> Tensor:
        """The network's outputs, of shape (*batch, outputs, *size)."""
        y = apply_body(self.network, z, (self.dim,))
        return y.reshape(*z.shape[:-1], self.outputs, *self.size)

    def features(self, z: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs one by one, each of shape (*batch, *size)."""
        return self.raw(z).unbind(z.dim() - 1)

    def event(self, distribution: dist.TorchDistribution) -> dist.TorchDistribution:
        """Declares the elements of x one event."""
        return distribution.to_event(len(self.size))

    @abstractmethod
    def forward(self, z: Tensor) -> dist.TorchDistribution: ...


def linked(value: Tensor, link: Link) -> Tensor:
    """Applies a link to a network's output."""
    return value.sigmoid() if link == "sigmoid" else value
