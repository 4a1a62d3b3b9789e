"""Calling a user's programs for evaluation, and checking what is asked."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from ppl_vae.program import modules
from ppl_vae.program.modules import Program, modules_of

__all__ = ["Data", "Program", "as_rows", "check_positive", "density", "evaluating", "is_real"]

Data = Tensor | tuple[Tensor, ...]
"""Rows of data: one tensor, or the tuple of a model's positional arguments, all of n rows."""


@contextmanager
def evaluating(*functions: Program, grad: bool = False) -> Iterator[None]:
    """Runs modules in eval mode, and without gradients unless `grad`, and puts all back after.

    A plain function does not say which modules it calls, so each module that runs forward inside
    is switched when it is first called.
    """
    with modules.evaluating(*modules_of(*functions).values()), torch.set_grad_enabled(grad):
        yield


def as_rows(x: Data) -> tuple[Tensor, ...]:
    """The tuple of a model's arguments, checked to agree in their number of rows."""
    rows = x if isinstance(x, tuple) else (x,)
    if len({len(r) for r in rows}) != 1 or not len(rows[0]):
        raise ValueError(
            f"data of {[len(r) for r in rows]} rows: equal numbers above 0 are needed"
        )
    return rows


def check_positive(**numbers: int) -> None:
    """Refuses counts below one."""
    for name, number in numbers.items():
        if (isinstance(number, float) and not math.isfinite(number)) or number < 1:
            raise ValueError(f"{name} is {number}: it must be 1 or more")


def density(fn: Distribution, value: Tensor) -> Tensor:
    """The log-density, with minus infinity and not an error outside the support."""
    with _unvalidated(fn):
        log_p = fn.log_prob(value)
    if is_real(fn):
        return log_p
    support = _support(fn)
    return log_p if support is None else torch.where(support.check(value), log_p, -math.inf)


def is_real(fn: Distribution) -> bool:
    """Whether the support is all real vectors."""
    support = _support(fn)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def _support(fn: Distribution) -> constraints.Constraint | None:
    try:
        return fn.support
    except NotImplementedError:
        return None


@contextmanager
def _unvalidated(fn: Distribution) -> Iterator[None]:
    chain = [fn]
    while isinstance(chain[-1], Independent):
        chain.append(chain[-1].base_dist)
    kept = [f._validate_args for f in chain]
    try:
        for f in chain:
            f._validate_args = False
        yield
    finally:
        for f, value in zip(chain, kept, strict=True):
            f._validate_args = value
