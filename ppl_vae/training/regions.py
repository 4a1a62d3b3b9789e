"""The sets that distributions put their mass on, in words that compare."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.program.sites import Site

__all__ = ["VECTORS", "Region", "fitting", "region_of"]

VECTORS = "vectors"

_GUIDES = {
    "sphere": "VonMisesFisher",
    "simplex": "RelaxedCategorical",
    "values of a discrete variable": "an enumerated OneHotCategorical or Categorical",
}

_UNBOUNDED = {"lower_bound": -float("inf"), "upper_bound": float("inf")}

# What a bound may be passed by in single precision.
_SLACK = 1e-4


@dataclass(frozen=True)
class Region:
    """Where a distribution puts its mass: a kind of set, and its bounds where it has them."""

    kind: str
    low: Tensor | float = -float("inf")
    high: Tensor | float = float("inf")

    def __str__(self) -> str:
        if self.kind != VECTORS:
            return f"the {self.kind}"
        if not self.is_bounded:
            return "all vectors"
        low, high = torch.as_tensor(self.low).min(), torch.as_tensor(self.high).max()
        return f"vectors in [{float(low):g}, {float(high):g}]"

    @property
    def is_bounded(self) -> bool:
        bounds = (torch.as_tensor(self.low), torch.as_tensor(self.high))
        return any(bool(bound.isfinite().any()) for bound in bounds)

    def holds(self, other: "Region") -> bool:
        """Whether the other lies in here; rows of different batch shapes all in each."""
        low, high = (torch.as_tensor(b) for b in (self.low, self.high))
        inner, outer = (torch.as_tensor(b) for b in (other.low, other.high))
        if low.dim() > 1 and low.shape != inner.shape:
            low, high = low.flatten(0, -2).amax(0), high.flatten(0, -2).amin(0)
        return bool((inner >= low - _SLACK).all() and (outer <= high + _SLACK).all())


def region_of(site: Site) -> Region | None:
    """The support in words that compare; None where it is not known."""
    try:
        support = site.fn.support
    except (NotImplementedError, AttributeError):
        return None
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is dist.constraints.sphere:
        return Region("sphere")
    if support is constraints.simplex:
        return Region("simplex")
    if support.is_discrete:
        return Region("values of a discrete variable")
    bounds = {
        k: getattr(support, k) for k in ("lower_bound", "upper_bound") if hasattr(support, k)
    }
    if not bounds and support not in (constraints.real, constraints.real_vector):
        return None
    return Region(VECTORS, *(bounds.get(k, d) for k, d in _UNBOUNDED.items()))


def fitting(region: Region | None) -> str:
    """The guide to use for a prior on a region."""
    if region is None:
        return "MeanFieldNormal"
    return _GUIDES.get(region.kind, "UniformBox" if region.is_bounded else "MeanFieldNormal")
