"""Missing values, marked NaN, left out of the densities of observed sites."""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent

from ppl_vae.program.sites import distribution_name

__all__ = ["Marginalised", "by_element", "dependent"]


class Marginalised(Messenger):
    r"""Leaves missing values out of observed sites whose elements are independent given latents.

    $$p(x_{\text{seen}} \mid z) = \prod_{j \text{ seen}} p(x_j \mid z)$$

    Missing are the NaN of a value. The site's value gets draws of the model in their place, which
    the density does not see.

    Raises:
        ValueError: for a site whose elements are not independent given the latents.
    """

    def _pyro_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not (msg["is_observed"] and isinstance(value, Tensor) and value.is_floating_point()):
            return
        missing = value.isnan()
        if not missing.any():
            return
        fn, events = msg["fn"], len(msg["fn"].event_shape)
        if (inner := by_element(fn)) is None:
            whole = missing.flatten(-events).all(-1)  # a whole event may be missing
            if not torch.equal(whole, missing.flatten(-events).any(-1)):
                raise dependent(msg["name"], fn)
            inner, seen, events = fn, ~whole, 0
        else:
            seen = ~missing
        msg["value"] = torch.where(missing, fn.sample().expand(value.shape), value)
        masked = inner.expand(torch.broadcast_shapes(inner.batch_shape, seen.shape)).mask(seen)
        msg["fn"] = masked.to_event(events)


def by_element(fn: Any) -> Any:
    """The distribution of the elements of an event, if they are independent; else None."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return None if len(fn.event_shape) else fn


def dependent(name: str, fn: Any) -> ValueError:
    """The error of a site whose elements are not independent."""
    return ValueError(
        f"site {name!r} is {distribution_name(fn)}, whose elements are not independent given the "
        "latents: values missing in part of it cannot be left out"
    )
