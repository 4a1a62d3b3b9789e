"""Optimisers with named settings, for configuration files and the command line.

`ppl_vae.fit` takes any optimiser or scheduler of `pyro.optim` and of `torch.optim`; these are some
of them whose settings are read off their signatures.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pyro.optim
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from ppl_vae.objectives import Schedule

__all__ = ["SGD", "Adam", "ClippedAdam"]


class Scheduled(PyroOptim):
    r"""An optimiser whose learning rate is $\eta\, s(t)\, \gamma^e$ at step t of epoch e.

    Args:
        optimizer: class of `torch.optim`.
        settings: its arguments, with the learning rate $\eta$ as `lr`.
        schedule: s, a factor on the learning rate as a function of the step; None for 1.
        decay: $\gamma$.
        clip_norm: largest norm of each parameter's gradient; None for no bound.

    Raises:
        ValueError: for a setting that is not positive; at its step, for a factor below 0.
    """

    def __init__(
        self,
        optimizer: type[torch.optim.Optimizer],
        settings: Mapping[str, Any],
        schedule: Schedule | None,
        decay: float,
        clip_norm: float | None,
    ) -> None:
        self.lr, self.decay = _positive("lr", settings["lr"]), _positive("decay", decay)
        self.schedule, self.steps, self.epochs = schedule, 0, 0
        clip = {} if clip_norm is None else {"clip_norm": _positive("clip_norm", clip_norm)}
        super().__init__(optimizer, dict(settings), clip)

    def plan(self, steps: int) -> None:
        """Tells how many steps are to come."""
        if self.schedule is not None:
            self.schedule.plan(self.steps + steps)
        self._set()

    def advance(self, epochs: int = 0) -> None:
        """Goes on by a step, or by epochs."""
        self.steps, self.epochs = self.steps + (not epochs), self.epochs + epochs
        if epochs or self.schedule is not None:
            self._set()

    def _set(self) -> None:
        factor = 1.0 if self.schedule is None else float(self.schedule(torch.tensor(self.steps)))
        if not factor >= 0:
            raise ValueError(f"{self.schedule} makes the learning rate negative at {self.steps}")
        rate = self.lr * factor * self.decay**self.epochs
        self.pt_optim_args["lr"] = rate  # of parameters that are met later
        for made in self.optim_objs.values():
            for group in made.param_groups:
                group["lr"] = rate

    def __repr__(self) -> str:
        more = "" if self.schedule is None else f", schedule={self.schedule}"
        more += "" if self.decay == 1 else f", decay={self.decay:g}"
        return f"{type(self).__name__}(lr={self.lr:g}{more})"


class Adam(Scheduled):
    r"""Adam, with a learning rate that may follow a schedule, or decay from epoch to epoch.

    Args:
        lr: learning rate.
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of squared gradients.
        weight_decay: L2 penalty on parameters.
        decay: factor on the learning rate after each epoch; 1 keeps it constant.
        clip_norm: largest norm of each parameter's gradient; null for no bound.
        schedule: a factor on the learning rate as a function of the step, such as Cosine.
        critic_beta1: beta1 of an objective's critic, which `fit` knows. What it learns moves as
            the encoder answers, and a long memory makes the two chase each other.

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization, arXiv:1412.6980.
        Radford, Metz and Chintala (2016), Unsupervised representation learning with deep
        convolutional generative adversarial networks, arXiv:1511.06434 (beta1 = .5).
    """

    def __init__(
        self,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        weight_decay: float = 0.0,
        decay: float = 1.0,
        clip_norm: float | None = None,
        schedule: Schedule | None = None,
        critic_beta1: float = 0.5,
    ) -> None:
        settings = {"lr": lr, "betas": (beta1, beta2), "weight_decay": weight_decay}
        super().__init__(torch.optim.Adam, settings, schedule, decay, clip_norm)
        self.critic_betas = critic_beta1, beta2
        self._critic: set[int] = set()

    def know_critic(self, parameters: Iterable[Tensor]) -> None:
        """Says which parameters are a critic's, before any of them is met."""
        self._critic = {id(p) for p in parameters}

    def _get_optim(self, param: Any) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = super()._get_optim(param)
        if id(param) in self._critic:
            made.param_groups[0]["betas"] = self.critic_betas
        return made


class SGD(Scheduled):
    r"""Stochastic gradient descent, with a learning rate that may follow a schedule or decay.

    Args:
        lr: learning rate.
        momentum: decay of the running sum of gradients.
        weight_decay: L2 penalty on parameters.
        decay: factor on the learning rate after each epoch; 1 keeps it constant.
        clip_norm: largest norm of each parameter's gradient; null for no bound.
        schedule: a factor on the learning rate as a function of the step, such as Cosine.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        decay: float = 1.0,
        clip_norm: float | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(torch.optim.SGD, settings, schedule, decay, clip_norm)


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


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return value
