"""Pairs at rows with missing values: left out by the model, filled in for the guide."""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent

from ppl_vae.program.modules import Program
from ppl_vae.program.sites import distribution_name

__all__ = ["Marginalised", "by_element", "dependent", "filled", "with_missing"]


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


def filled(args: tuple[Any, ...], fill: Tensor | None = None) -> tuple[Any, ...]:
    """Arguments with missing values replaced.

    Args:
        args: of a pair, rows first.
        fill: what the first argument's are replaced by, of the shape of a row or one number; by
            default, and in all others, the mean over the rows that have one, else 0.
    """

    def full(part: Any, value: Tensor | None) -> Any:
        if not isinstance(part, Tensor) or not part.is_floating_point() or not part.isnan().any():
            return part
        value = part.nanmean(0).nan_to_num(0.0) if value is None else value.to(part)
        return torch.where(part.isnan(), value, part)

    return tuple(full(part, fill if i == 0 else None) for i, part in enumerate(args))


def with_missing(
    model: Program, guide: Program, fill: Tensor | None = None
) -> tuple[Program, Program]:
    """A pair that takes rows with NaN: the model leaves them out, the guide sees them filled.

    The guide is then no longer what it was trained to be, and as a proposal it is as good as the
    filled rows are like whole ones.

    Args:
        model: the model; any Pyro callable, which does nothing with its data but observe them.
        guide: the guide.
        fill: what the guide sees, see `filled`.
    """

    def guide_of_filled(*args: Any) -> Any:
        return guide(*filled(args, fill))

    guide_of_filled.__wrapped__ = guide  # type: ignore[attr-defined]
    return Marginalised()(model), guide_of_filled
