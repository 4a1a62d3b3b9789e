"""The base class of priors."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.arguments import whole
from ppl_vae.program.modules import Portable

__all__ = ["Prior"]


class Prior(Portable, ABC):
    """A distribution p(z) over vectors: a module whose call returns it.

    Args:
        dim: dimension d of z.

    Shape:
        Batch shape (), event shape (d,): a plate around the latent site gives it its rows.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        whole(self, dim=dim)
        self.dim = dim
        self._constants: dict[str, float] = {}

    def constant(self, name: str, value: float, size: Sequence[int] | None = None) -> None:
        """Keeps a number, for each dimension or of another size, on the module's device and type.

        It comes from the constructor's arguments, so it is not saved with the weights, and a
        change of type rounds it anew.
        """
        shape = (self.dim,) if size is None else size
        self._constants[name] = float(value)
        self.register_buffer(name, torch.full(shape, float(value)), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name, value in self._constants.items():
            self.get_buffer(name).fill_(value)
        return self

    def extra_repr(self) -> str:
        return f"dim={self.dim}"

    @abstractmethod
    def forward(self) -> dist.TorchDistribution: ...
