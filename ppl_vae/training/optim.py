"""Optimisers with named settings, for configuration files and the command line.

`ppl_vae.fit` takes any optimiser or scheduler of `pyro.optim`; these are some of them whose
settings are read off their signatures.
"""

from collections.abc import Mapping
from typing import Any

import pyro.optim
import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler

__all__ = ["SGD", "Adam", "ClippedAdam"]


class Adam(PyroLRScheduler):
    r"""Adam, with a learning rate that may decay from epoch to epoch.

    Args:
        lr: learning rate.
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of squared gradients.
        weight_decay: L2 penalty on parameters.
        decay: factor on the learning rate after each epoch; 1 keeps it constant.
        clip_norm: largest norm of each parameter's gradient; null for no bound.

    References:
        Kingma, Ba (2015): Adam: a method for stochastic optimization. arXiv:1412.6980.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        weight_decay: float = 0.0,
        decay: float = 1.0,
        clip_norm: float | None = None,
    ) -> None:
        settings = {"lr": lr, "betas": (beta1, beta2), "weight_decay": weight_decay}
        super().__init__(*_exponential(torch.optim.Adam, settings, decay, clip_norm))


class SGD(PyroLRScheduler):
    r"""Stochastic gradient descent, with a learning rate that may decay from epoch to epoch.

    Args:
        lr: learning rate.
        momentum: decay of the running sum of gradients.
        weight_decay: L2 penalty on parameters.
        decay: factor on the learning rate after each epoch; 1 keeps it constant.
        clip_norm: largest norm of each parameter's gradient; null for no bound.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        decay: float = 1.0,
        clip_norm: float | None = None,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(*_exponential(torch.optim.SGD, settings, decay, clip_norm))


class ClippedAdam(PyroOptim):
    r"""Pyro's Adam with every element of a gradient clipped and a decay at every step.

    Args:
        lr: learning rate.
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of squared gradients.
        weight_decay: L2 penalty on parameters.
        clip: largest absolute value of an element of a gradient.
        lrd: factor on the learning rate after each step; 1 keeps it constant.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        weight_decay: float = 0.0,
        clip: float = 10.0,
        lrd: float = 1.0,
    ) -> None:
        super().__init__(
            pyro.optim.clipped_adam.ClippedAdam,
            {
                "lr": _positive("lr", lr),
                "betas": (beta1, beta2),
                "weight_decay": weight_decay,
                "clip_norm": _positive("clip", clip),
                "lrd": _positive("lrd", lrd),
            },
        )


def _exponential(
    optimizer: type[torch.optim.Optimizer],
    settings: Mapping[str, Any],
    decay: float,
    clip_norm: float | None,
) -> tuple[type, dict[str, object], dict[str, float]]:
    """What a `PyroLRScheduler` is made of."""
    args = {
        "optimizer": optimizer,
        "optim_args": {**settings, "lr": _positive("lr", settings["lr"])},
        "gamma": _positive("decay", decay),
    }
    clip = {} if clip_norm is None else {"clip_norm": _positive("clip_norm", clip_norm)}
    return torch.optim.lr_scheduler.ExponentialLR, args, clip


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return value
