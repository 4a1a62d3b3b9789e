"""The modules behind a model and a guide, and their evaluation mode."""

import functools
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ppl_vae.program.dtypes import one_type

__all__ = ["Portable", "Program", "evaluating", "float_type", "modules_of", "rehearse", "release"]

Program = Callable[..., Any]
"""A model or a guide: any Pyro callable."""


class Portable(nn.Module):
    """A module that can be pickled and copied once Pyro has seen its parameters.

    Pyro's store leaves a weak reference on each parameter that it hands out, and no such reference
    can be pickled; it is made anew when the parameter is next asked for.
    """

    def __getstate__(self) -> Any:
        release(*self.parameters())
        return super().__getstate__()


def release(*parameters: torch.Tensor) -> None:
    """Takes off what Pyro's store has left on parameters."""
    for parameter in parameters:
        vars(parameter).pop("unconstrained", None)


def modules_of(*parts: object) -> dict[str, nn.Module]:
    """The modules behind callables, each once, named by the place of the first it stands behind.

    Seen are modules, bound methods of modules, `functools.partial` of either, and either under
    Pyro's effect handlers. A module that a plain function reaches through a variable is not.

    Args:
        parts: model, guide and objective, in this order.
    """
    names = ("model", "guide", "objective")
    found: dict[str, nn.Module] = {}
    for name, part in zip(names, parts, strict=False):
        module = _behind(part)
        if module is not None and not any(module is other for other in found.values()):
            found[name] = module
    return found


def float_type(*parts: object) -> torch.dtype | None:
    """The one type of floats of the parameters behind callables; None of none, or of several."""
    modules = modules_of(*parts).values()
    found = {p.dtype for module in modules for p in module.parameters() if p.is_floating_point()}
    return next(iter(found)) if len(found) == 1 else None


def _behind(part: object) -> nn.Module | None:
    while part is not None:
        if isinstance(part, nn.Module):
            return part
        owner = getattr(part, "__self__", None)
        if isinstance(owner, nn.Module):
            return owner
        inner = getattr(part, "__wrapped__", None)
        part = part.func if inner is None and isinstance(part, functools.partial) else inner
    return None


class evaluating:
    """Context in which modules are in evaluation mode; each is put back as it was.

    A plain function does not say which modules it calls: any that runs inside is switched when it
    is first called.

    Args:
        parts: callables or modules; those that stand behind them are switched at once.
    """

    def __init__(self, *parts: object) -> None:
        modules = modules_of(*parts).values()
        self._modules = [part for module in modules for part in module.modules()]
        self._switched: list[nn.Module] = []

    def __enter__(self) -> None:
        for module in self._modules:
            self._switch(module)
        self._hook = register_module_forward_pre_hook(self._switch)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        while self._switched:
            self._switched.pop().training = True

    def _switch(self, module: nn.Module, *_: object) -> None:
        if module.training:
            module.training = False
            self._switched.append(module)


def rehearse(model: Program, guide: Program, *args: Any, **kwargs: Any) -> None:
    """Runs a pair once, in evaluation mode and without gradients; any randomness is undone.

    Raises:
        ValueError: for data of another type of numbers than the pair computes with.
    """
    with (
        torch.random.fork_rng(),
        torch.no_grad(),
        evaluating(model, guide),
        pyro.validation_enabled(False),
        one_type([*args, *kwargs.values()]),
    ):
        trace = poutine.trace(guide).get_trace(*args, **kwargs)
        poutine.replay(model, trace=trace)(*args, **kwargs)
