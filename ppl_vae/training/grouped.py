"""One optimiser's step over all parameters, where Pyro takes one for each."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

__all__ = ["Grouped", "inner"]

_KEPT = 4
_CALLS = (PyroOptim.__call__, PyroLRScheduler.__call__)
_UNLIKE = ("params", "initial_lr")  # by parameter, and what a scheduler starts from


class Grouped:
    """A `PyroOptim` that moves all parameters of equal settings in one step, where it is of Adam.

    Pyro's optimiser of each parameter remains the owner of settings and state: parameters met
    later, settings by name, clipping, schedulers, `get_state` and `set_state` are as they are.
    Where `foreach` and `fused` are left open, the step on a CPU or GPU is fused, which rounds
    otherwise in the last bits; with `foreach` it is bit for bit Pyro's. Optimisers of other
    classes than Adam and AdamW step as Pyro has it.

    Args:
        optim: the optimiser.
    """

    def __init__(self, optim: PyroOptim) -> None:
        self.optim = optim
        made = getattr(optim, "pt_optim_constructor", None)
        while isinstance(made, partial):
            made = made.func
        self._is_adam = type(optim).__call__ in _CALLS and made in (Adam, AdamW)
        self._groups: dict[tuple[int, ...], _Groups] = {}

    def __call__(self, params: Iterable[Tensor]) -> None:
        params = list(params)
        if not self._is_adam:
            self.optim(params)
            return
        self.meet([p for p in params if p not in self.optim.optim_objs])
        for p in params:
            clip = self.optim.grad_clip[p]
            if clip is not None:
                clip(p)
        key = tuple(map(id, params))
        if key not in self._groups or not self._groups[key].fit(self.optim):
            self._groups[key] = _Groups(params, self.optim)
            while len(self._groups) > _KEPT:
                del self._groups[next(iter(self._groups))]
        self._groups[key].step()

    def meet(self, params: list[Tensor]) -> None:
        """Has Pyro make the optimisers of new parameters, by a step that finds no gradients."""
        if not params:
            return
        grads = [p.grad for p in params]
        for p in params:
            p.grad = None
        self.optim(params)
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad


class _Groups:
    """One Adam for the parameters of each setting, on the states of Pyro's."""

    def __init__(self, params: list[Tensor], optim: PyroOptim) -> None:
        self._own = {p: inner(optim.optim_objs[p]) for p in params}
        groups: list[tuple[tuple[Any, ...], list[Tensor]]] = []
        for p, own in self._own.items():
            settings = {k: v for k, v in own.param_groups[0].items() if k not in _UNLIKE}
            like = (p.device, p.dtype, settings)
            same = next((members for other, members in groups if other == like), None)
            if same is None:
                groups.append((like, [p]))
            else:
                same.append(p)
        self._joint = [self._made(settings, members) for (*_, settings), members in groups]

    def _made(self, settings: dict[str, Any], params: list[Tensor]) -> Adam:
        joint = Adam(params, **settings | _fused(settings, params[0]))
        for p in params:
            joint.state[p] = state = self._own[p].state[p]  # one and the same
            if joint.param_groups[0]["fused"] and "step" in state:
                state["step"] = state["step"].to(p.device, torch.float32)
        return joint

    def fit(self, optim: PyroOptim) -> bool:
        """Whether optimisers, states and settings still are of one group each."""
        for joint in self._joint:
            (group,) = joint.param_groups
            first = self._own[group["params"][0]].param_groups[0]
            for p in group["params"]:
                own = self._own[p]
                if inner(optim.optim_objs[p]) is not own or own.state[p] is not joint.state[p]:
                    return False
                if own.param_groups[0] is not first and _differ(own.param_groups[0], first):
                    return False
            # A schedule may have moved all of them.
            group |= {k: v for k, v in first.items() if k not in ("params", "fused")}
        return True

    def step(self) -> None:
        for joint in self._joint:
            joint.step()


def inner(optimizer: Any) -> Optimizer:
    """The optimiser itself, of one that may be inside a scheduler."""
    inner: Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return any(v is not other[k] and v != other[k] for k, v in one.items() if k not in _UNLIKE)


def _fused(settings: Mapping[str, Any], param: Tensor) -> dict[str, Any]:
    """`fused` where that is open, and there is such a step."""
    asked = any(settings.get(name) is not None for name in ("foreach", "fused"))
    bound = any(settings.get(name) for name in ("capturable", "differentiable"))
    able = param.device.type in ("cpu", "cuda") and param.is_floating_point()
    return {"fused": True} if able and not asked and not bound else {}
