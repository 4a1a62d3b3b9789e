"""Calling a user's programs for evaluation, and checking what is asked."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae.arguments import checked_seed
from ppl_vae.program import modules
from ppl_vae.program.modules import Program

__all__ = [
    "Data",
    "Program",
    "arguments_of",
    "check_positive",
    "evaluating",
    "seeded",
    "unchecked",
]

Data = Tensor | tuple[Any, ...] | list[Any]
"""Rows of data: one tensor, or the tuple (or list) of a model's positional arguments."""


def arguments_of(x: Data) -> tuple[Any, ...]:
    """The positional arguments that data stand for."""
    return tuple(x) if isinstance(x, tuple | list) else (x,)


@contextmanager
def evaluating(*functions: Program, grad: bool = False) -> Iterator[None]:
    """Runs modules in eval mode, and without gradients unless `grad`, and puts all back after.

    A plain function does not say which modules it calls, so each module that runs forward inside
    is switched when it is first called.
    """
    with modules.evaluating(*functions), torch.set_grad_enabled(grad):
        yield


def check_positive(**numbers: int | None) -> None:
    """Refuses counts below one."""
    for name, number in numbers.items():
        if number is None:
            continue
        if (isinstance(number, float) and not math.isfinite(number)) or number < 1:
            raise ValueError(f"{name} is {number}: it must be 1 or more")


def unchecked(run: Callable[[], Tensor]) -> Tensor:
    """What `run` gives, without the checks of values and parameters that a run at the same data
    has passed before. Where a number is NaN it is run once more with them, so that what is wrong
    is said."""
    with pyro.validation_enabled(False):
        found = run()
    if bool(found.isnan().any()):
        run()
    return found


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draws within follow `seed` and leave the caller's generator alone; None uses the latter."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(checked_seed(seed))
        yield
