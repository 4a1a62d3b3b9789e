"""The state of optimisers, by the names of what they move, as a checkpoint keeps it."""

import functools
from collections.abc import Mapping
from typing import Any

from pyro.optim import PyroOptim
from torch import Tensor

from ppl_vae.training.adapters import Given
from ppl_vae.training.grouped import Grouped, inner
from ppl_vae.training.optim import Adam, Scheduled

__all__ = ["load_state", "settings", "state"]


def state(optim: PyroOptim, params: Mapping[str, Tensor]) -> dict[str, Any]:
    """What an optimiser has gathered: running means, learning rates, counts of steps.

    Args:
        optim: the optimiser.
        params: what it moves, by name.
    """
    if isinstance(optim, Given):
        scheduler = optim.scheduler
        more = {} if scheduler is None else {"scheduler": scheduler.state_dict()}
        return {"optimizer": optim.optimizer.state_dict(), **more}
    made = {name: optim.optim_objs[p] for name, p in params.items() if p in optim.optim_objs}
    found: dict[str, Any] = {"by_parameter": {name: _state(each) for name, each in made.items()}}
    if isinstance(optim, Scheduled):
        found |= {"steps": optim.steps, "epochs": optim.epochs}
    return found


def load_state(optim: PyroOptim, kept: Mapping[str, Any], params: Mapping[str, Tensor]) -> None:
    """Goes on from what `state` gave.

    Raises:
        ValueError: if that was of another optimiser.
    """
    if isinstance(optim, Given):
        optim.optimizer.load_state_dict(kept["optimizer"])
        if optim.scheduler is not None:
            optim.scheduler.load_state_dict(kept["scheduler"])
        return
    for p in params.values():
        optim.optim_objs.pop(p, None)
        optim.grad_clip.pop(p, None)
    Grouped(optim).meet([params[name] for name in kept["by_parameter"]])
    for name, each in kept["by_parameter"].items():
        made = optim.optim_objs[params[name]]
        inner(made).load_state_dict(each["optimizer"])
        if inner(made) is not made:
            made.load_state_dict(each["scheduler"])
    if isinstance(optim, Scheduled):
        optim.steps, optim.epochs = kept["steps"], kept["epochs"]


def settings(optim: PyroOptim) -> dict[str, Any]:
    """What an optimiser was made with: its class and the numbers given."""
    if isinstance(optim, Given):
        made: Any = optim.optimizer if optim.scheduler is None else optim.scheduler
        return {"": type(made).__name__} | optim.optimizer.defaults
    found: dict[str, Any] = {}
    made = getattr(optim, "pt_optim_constructor", type(optim))
    while isinstance(made, functools.partial):
        found, made = {**made.keywords, **found}, made.func
    made = getattr(optim, "pt_scheduler_constructor", made)
    found[""] = getattr(made, "__name__", type(optim).__name__)
    for part in ("pt_optim_args", "pt_clip_args", "kwargs"):
        given = getattr(optim, part, {})
        found |= given if isinstance(given, dict) else {}
    if isinstance(optim, Scheduled):
        found |= {"lr": optim.lr, "decay": optim.decay, "schedule": repr(optim.schedule)}
    if isinstance(optim, Adam):
        found["critic_beta1"] = optim.critic_betas[0]
    return found


def _state(made: Any) -> dict[str, Any]:
    found = {"optimizer": inner(made).state_dict()}
    return found if inner(made) is made else found | {"scheduler": made.state_dict()}
