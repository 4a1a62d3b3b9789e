"""Priors that are a shifted and scaled standard noise, perhaps seen through a transform."""

from dataclasses import dataclass

import torch.distributions as td  # Pyro's families are theirs, but those inside LogNormal are not
from pyro.distributions import Laplace, Normal, Uniform
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions.transforms import Transform

from ppl_vae.program.density import is_real
from ppl_vae.program.wrapping import is_point

__all__ = ["LocationScale", "elementwise", "location_scale", "units"]


@dataclass(frozen=True)
class LocationScale:
    r"""A prior $z = T(\mu + \sigma \epsilon)$, entry by entry.

    Attributes:
        kind: the family of the noise: Normal, Laplace or Uniform.
        loc: the location; the middle for Uniform.
        scale: the scale; half the width for Uniform.
        transforms: T, the first one applied first; empty for the families themselves, Exp for
            LogNormal.
    """

    kind: type[TorchDistributionMixin]
    loc: Tensor
    scale: Tensor
    transforms: tuple[Transform, ...] = ()

    def noise(self, like: Tensor, dim: int) -> TorchDistributionMixin:
        """The standard member over `dim` codes, of the type and device of `like`."""
        zeros = like.new_zeros(dim)
        low_or_loc = zeros - 1 if self.kind is Uniform else zeros
        return self.kind(low_or_loc, zeros + 1, validate_args=False).to_event(1)

    def to_noise(self, value: Tensor) -> Tensor:
        """The noise of a value, not a number where the prior has no such value."""
        for transform in reversed(self.transforms):
            value = transform.inv(value)
        return (value - self.loc) / self.scale

    def from_noise(self, noise: Tensor) -> Tensor:
        """The value that some noise stands for."""
        value = noise * self.scale + self.loc
        for transform in self.transforms:
            value = transform(value)
        return value


def location_scale(fn: TorchDistributionMixin) -> LocationScale | None:
    """A distribution's location, scale and transforms, or None if its family has none here."""
    base, transforms = elementwise(fn)
    if isinstance(base, td.Normal | td.Laplace):
        kind = Normal if isinstance(base, td.Normal) else Laplace
        return LocationScale(kind, base.loc, base.scale, transforms)
    if isinstance(base, td.Uniform):
        middle, half = (base.low + base.high) / 2, (base.high - base.low) / 2
        return LocationScale(Uniform, middle, half, transforms)
    return None


def elementwise(
    fn: TorchDistributionMixin,
) -> tuple[TorchDistributionMixin, tuple[Transform, ...]]:
    """What a distribution is made of by one to one maps of its entries, and these maps."""
    base = fn.base_dist if isinstance(fn, td.Independent) else fn
    if not isinstance(base, td.TransformedDistribution):
        return base, ()
    transforms = tuple(base.transforms)
    if any(t.domain.event_dim or t.codomain.event_dim or not t.bijective for t in transforms):
        return base, ()
    inner, before = elementwise(base.base_dist)
    return inner, before + transforms


def units(prior: TorchDistributionMixin, guide: TorchDistributionMixin) -> LocationScale | None:
    """What a prior's codes are compared in; None where as they are, as a guide on all real
    numbers would leave the support of a transformed prior."""
    found = location_scale(prior)
    if found is None or not found.transforms:
        return found
    strays = is_real(guide) and not is_real(prior) and not is_point(guide)
    return None if strays else found
