"""The trainable state of a model, a guide and an objective: by name, saved, restored.

A pair's state is the state of the modules that stand behind it (a module, a module's method, or
either under effect handlers) and the values of whatever else it keeps in Pyro's parameter store.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from ppl_vae.program.modules import Program, modules_of, rehearse
from ppl_vae.program.registration import misshapen, settle

__all__ = ["Snapshot", "check", "fill", "load", "no_larger", "state", "stored"]

_PARAM = "param."


def stored(pair: Sequence[Program], *args: Any) -> dict[str, Tensor]:
    """The unconstrained parameters by name that model and guide ask Pyro's store for.

    Both are run, so lazily built parameters exist from here on, and the names of modules hold the
    modules that run. Any randomness is undone.

    Raises:
        ValueError: see `ppl_vae.program.registration`.
    """
    with _keeping_shapes(*modules_of(*pair).values()):
        settle(lambda: rehearse(*pair, *args))
        with poutine.trace(param_only=True) as capture:
            settle(lambda: rehearse(*pair, *args))
    sites = [site for site in capture.trace.nodes.values() if site["type"] == "param"]
    for site in sites:
        if not hasattr(site["value"], "unconstrained"):
            raise ValueError(
                f"parameter {site['name']!r} is local to its module, which pyro.infer.SVI does "
                "not train: call pyro.settings.set(module_local_params=False)"
            )
    return {site["name"]: site["value"].unconstrained() for site in sites}


@contextmanager
def _keeping_shapes(*modules: nn.Module) -> Iterator[None]:
    """Refuses a `PyroParam` that takes a tensor of another shape from Pyro's store."""
    before = {(m, k): p.shape for m in modules for k, p in m.named_parameters() if not is_lazy(p)}
    try:
        yield
    finally:
        for (module, key), shape in before.items():
            now = dict(module.named_parameters()).get(key)
            if now is not None and now.shape != shape:
                raise misshapen(key.removesuffix("_unconstrained"), shape, now.shape)


def state(modules: Mapping[str, nn.Module], params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state by name: each module's under its name, loose parameters under `param.`.

    The tensors are the live ones, constrained parameters in their unconstrained form. A network
    under `torch.compile` has the names of the plain one.

    Args:
        modules: as `modules_of` names them.
        params: as `stored` finds them.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {_plain(f"{name}.{key}"): value for key, value in module.state_dict().items()}
    own = {id(p) for module in modules.values() for p in module.parameters()}
    loose = {name: p.detach() for name, p in params.items() if id(p) not in own}
    tensors |= {_PARAM + _plain(name): param for name, param in loose.items()}
    return tensors


def _plain(name: str) -> str:
    """The name that a tensor has where no network is under `torch.compile`."""
    return name.replace("_orig_mod.", "")


def load(
    tensors: Mapping[str, Tensor],
    model: Program,
    guide: Program,
    objective: object = None,
    *args: Any,
) -> None:
    """Puts saved values into a model, a guide and an objective.

    Args:
        tensors: what `state` gave, as `Run.load_weights` reads it.
        model: the model.
        guide: the guide.
        objective: the objective, where its own parameters (a critic's) are wanted.
        args: a batch to run the pair on once, needed only where parameters are made at the first
            call: `pyro.param` in plain functions, automatic guides.

    Raises:
        ValueError: if a name, a shape or a type differs from what was saved, or a value is not
            finite.
    """
    params = stored((model, guide), *args) if args else {}
    modules = modules_of(model, guide, objective)
    live = state(modules, params)
    tensors = {_plain(name): value for name, value in tensors.items()}
    saved = {k: v for k, v in tensors.items() if k in live or not k.startswith("objective.")}
    fill(live, saved)


def fill(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copies saved values into live tensors of the same names.

    Raises:
        ValueError: if a name, a shape or a type differs, or a value is not finite; nothing is
            copied.
    """
    check(live, saved)
    for name, value in saved.items():
        # a mask may be infinite, where it is so anyway
        here = value.to(live[name].device)
        if not bool((here.isfinite() | (here == live[name])).all()):
            raise ValueError(f"the weights are damaged: {name!r} is not finite")
    with torch.no_grad():
        for name, value in saved.items():
            live[name].copy_(value)


def check(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Holds saved values against live tensors, of which they must have the names and shapes.

    Raises:
        ValueError: if a name, a shape or a type differs.
    """
    missing, unknown = sorted(live.keys() - saved), sorted(saved.keys() - live.keys())
    if missing or unknown:
        what = f"{missing[0]!r} is not in them" if missing else f"{unknown[0]!r} is not the pair's"
        raise ValueError(f"the weights belong to another model: {what}")
    for name, value in saved.items():
        if live[name].shape != value.shape:
            raise ValueError(
                f"the weights belong to another model: {name!r} has shape {tuple(value.shape)} "
                f"where {tuple(live[name].shape)} is due"
            )
        if live[name].dtype != value.dtype:
            raise ValueError(
                f"the weights belong to another model: {name!r} is {value.dtype} where "
                f"{live[name].dtype} is due"
            )


@contextmanager
def no_larger(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Refuses networks that are made within and are far larger than weights that are for them.

    What a folder says of its networks is so held against what it has, before they take memory.

    Raises:
        ValueError: at the first that is.
    """
    # some are made, looked at, and made again
    left = 2**22 + 4 * sum(x.numel() for x in tensors.values())

    def count(module: nn.Module, name: str, made: nn.Parameter) -> None:
        nonlocal left
        left -= 0 if made is None or is_lazy(made) else made.numel()
        if left < 0:
            raise ValueError(
                f"the weights belong to another model: {type(module).__name__} is larger than all "
                "of them"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


class Snapshot:
    """Copies of tensors, made in place again and again, to go back to.

    Args:
        tensors: the live tensors.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        # a tensor may stand under two names
        self._live = list({id(x): x.detach() for x in tensors}.values())
        self._copies = [x.clone() for x in self._live]

    def state(self) -> list[Tensor]:
        """The kept values."""
        return self._copies

    def load_state(self, copies: Sequence[Tensor]) -> None:
        """Keeps the values that `state` gave."""
        names = [str(k) for k in range(len(self._copies))]
        mine = dict(zip(names, self._copies, strict=True))
        fill(mine, dict(zip(names, copies, strict=True)))

    def take(self) -> None:
        """Keeps the values as they are now."""
        if self._live:
            torch._foreach_copy_(self._copies, self._live)

    def restore(self) -> None:
        """Puts the kept values back."""
        if self._live:
            torch._foreach_copy_(self._live, self._copies)
