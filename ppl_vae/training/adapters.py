"""What stands for an optimiser: of Pyro, of torch, or one with its learning-rate schedule."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ppl_vae.training.optim import Scheduled

__all__ = ["AnyOptimizer", "as_pyro", "end_epoch"]

AnyOptimizer = PyroOptim | torch.optim.Optimizer | Callable[..., torch.optim.Optimizer]
"""Of `pyro.optim`; or of `torch.optim` an instance, a class, or a `functools.partial` of one."""


class Given(PyroOptim):
    """An optimiser of torch's that was made with its parameters.

    Args:
        optimizer: the optimiser.
        scheduler: of its learning rates, stepped once an epoch.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None = None
    ) -> None:
        # no super().__init__: it holds all there is
        self.optimizer, self.scheduler = optimizer, scheduler

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """A step that moves these parameters and leaves the rest."""
        asked = {id(p) for p in params}
        others = [(p, p.grad) for p in self.parameters if id(p) not in asked]
        for param, _ in others:
            param.grad = None
        self.optimizer.step()
        for param, grad in others:
            param.grad = grad


def as_pyro(optimizer: object, trained: Mapping[str, Tensor]) -> PyroOptim:
    """An optimiser that `pyro.infer.SVI` takes.

    Args:
        optimizer: any of `AnyOptimizer`, or a scheduler of `torch.optim.lr_scheduler`.
        trained: the parameters that are to be trained, by name.

    Raises:
        TypeError: for anything else.
        ValueError: for one that wants a closure, or was made without some of the parameters.
    """
    if isinstance(optimizer, PyroOptim):
        return optimizer
    scheduler = optimizer if isinstance(optimizer, LRScheduler) else None
    optimizer = optimizer if scheduler is None else scheduler.optimizer
    inner = optimizer
    while isinstance(inner, functools.partial):
        inner = inner.func
    made = inner if isinstance(inner, type) else type(inner)
    if not issubclass(made, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer is {optimizer!r}: give one of pyro.optim or of torch.optim, as in "
            "torch.optim.Adam or functools.partial(torch.optim.Adam, lr=1e-3)"
        )
    if issubclass(made, torch.optim.LBFGS):
        raise ValueError("optimizer is LBFGS, which wants the loss again and again: use Adam")
    if not isinstance(optimizer, torch.optim.Optimizer):
        return PyroOptim(optimizer, {})
    given = Given(optimizer, scheduler)
    held = {id(p) for p in given.parameters}
    left = [k for k, p in trained.items() if id(p) not in held and p.requires_grad]
    if left:
        raise ValueError(
            f"the {made.__name__} was made without {left[0]!r} and {len(left) - 1} more: give the "
            f"class, torch.optim.{made.__name__}, which is made for all, or name what is to stay "
            "by requires_grad_(False)"
        )
    return given


def end_epoch(optimizer: PyroOptim, loss: float) -> None:
    """Steps what lowers learning rates once an epoch.

    Args:
        optimizer: the optimiser.
        loss: what a plateau is looked for in.
    """
    if isinstance(optimizer, Scheduled):
        optimizer.advance(epochs=1)
    elif isinstance(optimizer, Given) and optimizer.scheduler is not None:
        _step(optimizer.scheduler, optimizer.scheduler.__class__, loss)
    elif isinstance(optimizer, PyroLRScheduler):
        _step(optimizer, optimizer.pt_scheduler_constructor, loss)


def _step(scheduler: Any, kind: type, loss: float) -> None:
    scheduler.step(loss) if kind is ReduceLROnPlateau else scheduler.step()
