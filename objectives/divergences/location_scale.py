"""Priors that are a shifted and scaled standard noise."""

from dataclasses import dataclass

from pyro.distributions import Independent, Laplace, Normal, Uniform
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

__all__ = ["LocationScale", "location_scale"]


@dataclass(frozen=True)
class LocationScale:
    """A prior's location and scale, and which family its noise has.

    Attributes:
        kind: Normal, Laplace or Uniform.
        loc: the location; the middle for Uniform.
        scale: the scale; half the width for Uniform.
    """

    kind: type[TorchDistributionMixin]
    loc: Tensor
    scale: Tensor

    def noise(self, like: Tensor, dim: int) -> TorchDistributionMixin:
        """The standard member over `dim` codes, of the type and device of `like`."""
        zeros = like.new_zeros(dim)
        low_or_loc = zeros - 1 if self.kind is Uniform else zeros
        return self.kind(low_or_loc, zeros + 1, validate_args=False).to_event(1)


def location_scale(fn: TorchDistributionMixin) -> LocationScale | None:
    """A distribution's location and scale, or None if its family has none here."""
    base = fn.base_dist if isinstance(fn, Independent) else fn
    if isinstance(base, Normal | Laplace):
        return LocationScale(Normal if isinstance(base, Normal) else Laplace, base.loc, base.scale)
    if isinstance(base, Uniform):
        return LocationScale(Uniform, (base.low + base.high) / 2, (base.high - base.low) / 2)
    return None
