"""Missing values, marked NaN: left out of observed sites, filled in for guides."""

import inspect
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Independent, constraints

from ppl_vae.program.modules import Program, modules_of
from ppl_vae.program.wrapping import distribution_name

__all__ = ["Marginalised", "by_element", "dependent", "filled", "reads_missing", "with_missing"]


class Marginalised(Messenger):
    r"""Leaves missing values out of observed sites whose elements are independent given latents.

    $$p(x_{\text{seen}} \mid z) = \prod_{j \text{ seen}} p(x_j \mid z)$$

    Missing are the NaN of a value. The site's value gets in their place the mean of the model's
    distribution where that is on the real line, and a draw elsewhere, both detached: the density
    does not see them; what compares values with anything else asks the site which are `missing`.
    A distribution of several
    independent parts takes part by a method `leave_out(missing)`, which returns its marginal and
    such values.

    Raises:
        ValueError: for a site whose elements are not independent given the latents.
    """

    def _pyro_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not (msg["is_observed"] and isinstance(value, Tensor) and value.is_floating_point()):
            return
        fn, missing = msg["fn"], value.isnan()
        if hasattr(fn, "leave_out"):
            msg["fn"], instead = fn.leave_out(missing)
        elif (inner := by_element(fn)) is not None:
            instead = _instead(inner)
            shape = torch.broadcast_shapes(inner.batch_shape, missing.shape)
            msg["fn"] = inner.expand(shape).mask(~missing).to_event(len(fn.event_shape))
        elif missing.any():
            whole = missing.flatten(-len(fn.event_shape)).all(-1)  # a whole event may be missing
            if not torch.equal(whole, missing.flatten(-len(fn.event_shape)).any(-1)):
                raise dependent(msg["name"], fn)
            instead = fn.sample()
            msg["fn"] = fn.expand(torch.broadcast_shapes(fn.batch_shape, whole.shape)).mask(~whole)
        else:
            return
        msg["value"] = torch.where(missing, instead.detach(), value)
        msg["infer"] = {**msg["infer"], "missing": missing}


def _instead(fn: Any) -> Tensor:
    """Values in the support of a distribution of single elements, its means where they are."""
    try:
        if fn.support is constraints.real:
            mean: Tensor = fn.mean
            return mean
    except NotImplementedError:
        pass
    drawn: Tensor = fn.sample()
    return drawn


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
        if not isinstance(part, Tensor) or not part.is_floating_point():
            return part
        value = part.nanmean(0).nan_to_num(0.0) if value is None else value.to(part)
        return torch.where(part.isnan(), value, part)

    return tuple(full(part, fill if i == 0 else None) for i, part in enumerate(args))


def reads_missing(program: Program) -> bool:
    """Whether a program's networks take rows with NaN, as those in a body `Masked` do."""
    modules = modules_of(program).values()
    return any(getattr(m, "reads_missing", False) for part in modules for m in part.modules())


def with_missing(
    model: Program, guide: Program, fill: Tensor | None = None
) -> tuple[Program, Program]:
    """A pair that takes rows with NaN: the model leaves them out, the guide sees them filled.

    A guide that has an argument `mask` is given as such where values are there. One whose
    networks read NaN themselves gets the rows as they are.

    Args:
        model: the model; any Pyro callable, which does nothing with its data but observe them.
        guide: the guide.
        fill: what the guide sees, see `filled`.
    """
    left_out = _LeavingOut(model)
    return left_out, guide if reads_missing(guide) else _Filling(guide, fill)


class _LeavingOut:
    """A model that leaves missing values out."""

    def __init__(self, program: Program) -> None:
        self.__wrapped__ = program

    def __call__(self, *args: Any) -> Any:
        with Marginalised():
            return self.__wrapped__(*args)


class _Filling:
    """A guide that sees missing values filled in."""

    def __init__(self, program: Program, fill: Tensor | None) -> None:
        self.__wrapped__, self.fill = program, fill
        called = program.forward if isinstance(program, nn.Module) else program
        self.takes_mask = "mask" in inspect.signature(called).parameters

    def __call__(self, *args: Any) -> Any:
        mask = {"mask": ~args[0].isnan()} if self.takes_mask else {}
        return self.__wrapped__(*filled(args, self.fill), **mask)
