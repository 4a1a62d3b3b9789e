"""The base class of priors."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

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
        self._constants: dict[str, float] = {}

    def constant(self, name: str, value: float) -> None:
        """Keeps a number for each dimension, which follows the module's device and type.

        It comes from the constructor's arguments, so it is not saved with the weights, and a
        change of type rounds it anew.
        """
        self._constants[name] = float(value)
        self.register_buffer(name, torch.full((self.dim,), float(value)), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name, value in self._constants.items():
            self.get_buffer(name).fill_(value)
        return self

    @abstractmethod
    def forward(self) -> dist.TorchDistribution: ...
