"""Calling a user's programs for evaluation, and checking what is asked."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae.arguments import checked_seed
from ppl_vae.data.tensors import as_tensor, is_array
from ppl_vae.pairs.pair import typed_for
from ppl_vae.program import modules
from ppl_vae.program.modules import Program
from ppl_vae.program.running import check_takes

__all__ = [
    "Data",
    "Program",
    "arguments_of",
    "check_positive",
    "evaluating",
    "seeded",
    "unchecked",
]

Data = Any
"""Rows of data in any form that `fit` takes in memory, or the tuple (or list) of a model's
positional arguments."""


def arguments_of(x: Data, model: Program, guide: Program) -> tuple[Any, ...]:
    """The positional arguments that data stand for.

    Arrays and tables are turned into tensors, and floats into the type of the pair's parameters,
    where modules stand behind it that have one; the library's pairs take x as floats. This is
    what `fit` does with rows.

    Args:
        x: rows in any form, or the tuple or list of arguments; what is no rows stays as it is.
        model: the model.
        guide: the guide.

    Raises:
        ValueError: for another number of arguments than the pair is called with.
    """
    several = isinstance(x, tuple) or (isinstance(x, list) and any(map(is_array, x)))
    args = tuple(x) if several else (x,)
    check_takes(args, model, guide)
    numbers = [
        part
        if isinstance(part, Tensor) or (several and not is_array(part))
        else as_tensor(part, "the data")
        for part in args
    ]
    return typed_for(numbers, model, guide)


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
