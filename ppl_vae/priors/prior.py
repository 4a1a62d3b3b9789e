"""The base class of priors."""

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import nn

__all__ = ["Prior"]


class Prior(nn.Module, ABC):
    """A distribution p(z) over vectors: a module whose call returns it.

    Args:
        dim: dimension d of z.

    Shape:
        Batch shape (), event shape (d,): a plate around the latent site gives it its rows.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"the latent dimension must be at least 1, got {dim}")
        self.dim = dim

    def constant(self, name: str, value: float) -> None:
        """Keeps a number for each dimension, which follows the module's device and type.

        It comes from the constructor's arguments, so it is not saved with the weights.
        """
        self.register_buffer(name, torch.full((self.dim,), float(value)), persistent=False)

    @abstractmethod
    def forward(self) -> dist.TorchDistribution: ...
