"""What a distribution is inside `to_event`, masks and expansions."""

from typing import Any

import torch
from pyro.distributions import Delta, Independent, MaskedDistribution, MixtureSameFamily
from torch.distributions import Categorical, Cauchy

__all__ = [
    "base_of",
    "distribution_name",
    "has_mask_inside",
    "has_moments",
    "is_point",
    "lift",
    "support_name",
]


def lift(fn: Any, mask: Any) -> tuple[Any, Any]:
    """A distribution without the masks around it, and a site's mask joined with them."""
    while isinstance(fn, MaskedDistribution):
        own = fn._mask
        if mask is None or mask is True:
            mask = own
        elif own is not True:
            own, mask = (torch.as_tensor(m) for m in (own, mask))
            mask = mask.to(own.device) & own
        fn = fn.base_dist
    return fn, mask


def base_of(fn: Any) -> Any:
    """A distribution inside any mask and `to_event`."""
    while isinstance(fn, Independent | MaskedDistribution):
        fn = fn.base_dist
    return fn


def has_mask_inside(fn: Any) -> bool:
    """Whether a distribution is masked by element, inside `to_event`."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
        if isinstance(fn, MaskedDistribution):
            return True
    return False


def distribution_name(fn: Any) -> str:
    """The public name of a distribution, inside any `to_event`, `expand` and mask."""
    names = (cls.__name__ for cls in type(base_of(fn)).__mro__)
    return next(name for name in names if not name.startswith("_"))


def support_name(fn: Any) -> str:
    """The support of a distribution without its event dimensions, `Real`; `?` if it has none."""
    try:
        support = fn.support
    except (NotImplementedError, AttributeError):
        return "?"
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return str(support).removesuffix("()")


def has_moments(fn: Any) -> bool:
    """Whether a distribution has a mean and a variance: of others PyTorch gives NaN, no error."""
    return not isinstance(base_of(fn), Categorical | Cauchy)


def is_point(fn: Any) -> bool:
    """Whether a distribution is a point mass, under whatever wrapping; also a mixture of such."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    if isinstance(fn, MixtureSameFamily):
        return is_point(fn.component_distribution)
    return isinstance(fn, Delta)
