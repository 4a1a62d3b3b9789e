"""A training step as a recorded graph of tensor operations."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy
import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.module import register_module_forward_pre_hook

from ppl_vae.objectives import Objective
from ppl_vae.program.modules import Program
from ppl_vae.program.registration import register
from ppl_vae.training.graphs import simplify, varies
from ppl_vae.world import here

__all__ = ["NotRecorded", "Recording", "tensors_of"]


class NotRecorded(RuntimeError):
    """Why a step cannot be replayed."""


class Recording:
    """Loss and gradients of one step, as a graph that reads parameters and buffers where they lie.

    Making one moves what a step moves: queues, running statistics, the objective's step and terms.

    Args:
        objective: the loss.
        model: the model.
        guide: the guide.
        args: tensors are inputs of the graph, and anything else is taken as it is.
        kwargs: the same, by name.
        only: the parameters whose gradients are wanted; all by default.

    Attributes:
        params: what the programs asked for, as leaves.
        kept: the tensors that the graph reads where they lie, some of which a replay writes to.

    Raises:
        NotRecorded: if the step draws from generators that are not torch's, or the shape of a
            tensor depends on numbers.
        Exception: whatever else stops it under the recorder, such as a branch on data.
    """

    def __init__(
        self,
        objective: Objective,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        only: Collection[Tensor] | None = None,
    ) -> None:
        self.objective = objective
        self.params: list[Tensor] = []

        def step(*tensors: Tensor) -> list[Tensor]:
            rest = iter(tensors)
            given = [next(rest) if isinstance(a, Tensor) else a for a in args]
            named = {k: next(rest) if isinstance(a, Tensor) else a for k, a in kwargs.items()}
            with poutine.trace(param_only=True) as seen:
                loss = objective.differentiable_loss(model, guide, *given, **named)
                register(objective)
            leaves = [n["value"].unconstrained() for n in seen.trace.nodes.values()]
            self.params = list(dict.fromkeys(leaves))
            asked = [p for p in self.params if p.requires_grad and (only is None or p in only)]
            grads: Sequence[Tensor | None] = [None] * len(asked)
            if loss.requires_grad:
                grads = torch.autograd.grad(loss, asked, allow_unused=True)
            own = {p: g for p, g in zip(asked, grads, strict=True) if g is not None}
            stored = dict(pyro.get_param_store().named_parameters())
            # in the store a parameter has its names; outside, its place
            outside = set(asked) - set(stored.values())
            named = stored | {f"{k}": p for k, p in enumerate(asked) if p in outside}
            every = here().gradients(named, {n: own[p] for n, p in named.items() if p in own})
            found = {named[name]: grad for name, grad in every.items()}
            self._trained = [*found]
            self._terms, self._flags = list(objective.terms), objective.flags()
            read = [*objective.terms.values(), *(d.out_of_reach[s] for d, s in self._flags)]
            return [t.detach() for t in (loss, *read, *found.values())]

        host = _host_noise()
        self._modules: dict[nn.Module, bool] = {}
        hook = register_module_forward_pre_hook(
            lambda module, _: self._modules.update({module: module.training})
        )
        try:
            with pyro.validation_enabled(False):
                self._graph = make_fx(step)(*tensors_of(args, kwargs))
        finally:
            hook.remove()
        if _host_noise() != host:
            raise NotRecorded("it draws from Python's or NumPy's generator, which no graph does")
        nodes = self._graph.graph.nodes
        if any(map(varies, nodes)):
            raise NotRecorded("the shape of a tensor depends on numbers, as of masked rows")
        names = dict.fromkeys(str(node.target) for node in nodes if node.op == "get_attr")
        self.kept = [getattr(self._graph, name) for name in names]
        simplify(self._graph)
        self._run: Callable[..., list[Tensor]] = self._graph

    def compile(self) -> None:
        """Has the next replay compiled by inductor, with the noise that torch draws otherwise.

        Nothing is compiled before that replay, which raises whatever the compiler does.
        """
        self._run = torch.compile(self._graph, dynamic=False, options={"fallback_random": True})

    def interpret(self) -> None:
        """Replays operation by operation again."""
        self._run = self._graph

    @property
    def fits(self) -> bool:
        """Whether modules are in the mode that they were in, and parameters in Pyro's store."""
        names = pyro.get_param_store().param_name
        return all(module.training is mode for module, mode in self._modules.items()) and all(
            names(param) is not None for param in self.params
        )

    def replay(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The loss, what the host reads of terms and divergences, and gradients, of other tensors.

        Their shapes are the same, and noise is drawn anew.
        """
        with torch.no_grad():
            return self._run(*tensors_of(args, kwargs))

    def publish(self, outputs: Sequence[Tensor]) -> float:
        """Leaves terms and gradients of a replay where an eager step does, and returns the loss.

        Raises:
            FloatingPointError: as `Objective.loss_and_grads`.
        """
        rest = iter(outputs)
        loss = next(rest)
        self.objective.terms = {name: next(rest) for name in self._terms}
        for divergence, site in self._flags:
            divergence.out_of_reach[site] = next(rest)  # type: ignore[index]
        value = self.objective.read(loss)
        for param, grad in zip(self._trained, rest, strict=True):
            param.grad = grad if param.grad is None else param.grad + grad
        return value

    def difference(
        self, outputs: Sequence[Tensor], loss: float, same: Callable[[Tensor, Tensor], bool]
    ) -> str | None:
        """What an eager step that has just been taken left otherwise, the first in words.

        Args:
            outputs: of a replay.
            loss: the eager step's.
            same: whether two tensors are the same.
        """
        rest = iter(outputs)
        found = next(rest)
        if not same(found, found.new_tensor(loss)):
            return "its loss"
        for name in self._terms:
            if not same(next(rest), self.objective.terms[name]):
                return f"its term {name!r}"
        for divergence, site in self._flags:
            if not same(next(rest), divergence.out_of_reach[site]):
                return f"the reach of {site!r}"
        names = pyro.get_param_store().param_name
        for param, grad in zip(self._trained, rest, strict=True):
            if param.grad is None or not same(grad, param.grad):
                return f"its gradient of {names(param).replace('$$$', '.')!r}"
        return None


def tensors_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among arguments, in order."""
    return [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]


def _host_noise() -> str:
    return repr((random.getstate(), numpy.random.get_state()))  # noqa: NPY002
