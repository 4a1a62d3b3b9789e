"""Pyro's SVI with a step that records itself where a recorded one is the same."""

import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.optim import PyroOptim
from torch import Tensor

from ppl_vae.objectives import Objective
from ppl_vae.program.handlers import is_handled
from ppl_vae.program.modules import Program, modules_of
from ppl_vae.state import same_environment
from ppl_vae.training.grouped import Grouped
from ppl_vae.training.held import Held
from ppl_vae.training.recording import Recording
from ppl_vae.training.sameness import State, undone, up_to_rounding
from ppl_vae.training.traced import Traced, Untraceable
from ppl_vae.world import here, inside

__all__ = ["SVI", "check_loss"]

# A recording costs some 50 steps: a short training is over before it pays.
_FIRST = 16
_KEPT = 4

Key = tuple[Hashable, Hashable]
Notes = list[tuple[Any, Any]]
"""What the hosts of several processes said in a step, and what came of it."""


class SVI(pyro.infer.SVI):  # type: ignore[misc]
    """`pyro.infer.SVI` whose step, after some eager ones, is a recorded graph.

    A graph of loss and gradients spares the run of model, guide and handlers in Python, and all
    of Pyro's checks, which the eager steps before have made. It is of the shapes and dtypes of the
    arguments, of the numbers, flags and modes that the modules of pair and objective hold, and of
    their parameters and buffers, which it reads where they lie; for others steps are eager again
    until there is one. Noise is drawn anew at each step.

    Before a graph is used, a step is taken both ways from one random state. Unless loss, terms,
    gradients, what has moved besides them, and the random state after are equal bit for bit, steps
    stay eager, with one warning that says why: as where a program branches on data, or draws from
    Python's or NumPy's generators. What a program reads besides arguments, torch's generators and
    modules, such as a global number, must stay as it is; else say `record=False`.

    `compile=True` gives the graph to torch's compiler, which takes a C++ compiler and half a
    minute for each shape, once; a step of a small network then takes about half as long. What it
    makes is held against the same step, and used if loss, terms, gradients and what has moved
    agree to rounding; else, and where there is no compiler, a warning says why and the recorded
    graph is used.

    Steps with a loss of Pyro's own, with `InfoVAE(elbo=...)` or under effect handlers are eager.

    `only=objective.parameters()` makes the further steps of a critic: they move nothing else, and
    their graph has no other gradient, which leaves out the pass back through the decoder.

    Over several processes their sums are in the graph. At each step they agree by one exchange
    that all have a graph for what they are given, or else all take an eager step; where one
    cannot record, or meets a difference, all stay eager. Nothing is compiled there.

    Args:
        model: the model.
        guide: the guide.
        optim: of `pyro.optim`.
        loss: an `Objective`, or any loss of Pyro's.
        record: "auto", or False for eager steps.
        compile: whether recorded steps are compiled.
        only: the parameters that steps move; all by default.
        **svi: as in `pyro.infer.SVI`.

    Example:
        >>> import pyro
        >>> from ppl_vae import SVI
        >>> from ppl_vae.objectives import MMD, InfoVAE
        >>> svi = SVI(print, print, pyro.optim.Adam({"lr": 1e-3}), InfoVAE(MMD(), scale=10.0))
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: PyroOptim,
        loss: ELBO | Callable[..., Any],
        record: Literal["auto", False] = "auto",
        compile: bool = False,
        only: Iterable[Tensor] | None = None,
        **svi: Any,
    ) -> None:
        if record not in ("auto", False):
            raise ValueError(f"record={record!r}: use 'auto' or False")
        if compile and not record:
            raise ValueError("compile=True compiles recorded steps, and record=False takes none")
        super().__init__(model, guide, optim, loss, **svi)
        self._loss = loss
        self._objective: Objective | None = None
        if record and isinstance(loss, Objective) and getattr(loss, "elbo", None) is None:
            self._objective = loss
        self._compile = compile
        self._only = None if only is None else frozenset(only)
        if self._only == frozenset():
            raise ValueError(
                "only= names no parameter, so that a step would move nothing: did you mean an "
                "objective with parameters of its own, such as InfoVAE(Adversarial(dim=...))?"
            )
        self._modules = list(modules_of(model, guide, loss).values())
        self._held = Held(self._modules)
        self._optimizer = Grouped(optim)
        self._moved: set[Tensor] = set()
        """The parameters that have had a gradient, which is 0 in a step that gives none."""
        self._steps: dict[Key, int | Notes | Recording] = {}
        """By what a graph depends on, here and in all processes.

        How many eager steps there were; what processes told each other in one; then the graph.
        """
        self._equal: set[Recording] = set()

    @property
    def recorded(self) -> int:
        """How many graphs are in use."""
        return len(self._equal)

    def moved(self, params: Mapping[str, Tensor]) -> list[str]:
        """The names of the parameters that have had a gradient."""
        return [name for name, param in params.items() if param in self._moved]

    def set_moved(self, params: Iterable[Tensor]) -> None:
        """Takes it that these parameters have had a gradient, and no others."""
        self._moved = set(params)

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes a step and returns the loss, as `pyro.infer.SVI.step`.

        Raises:
            ValueError: among several processes, for a loss of Pyro's.
        """
        check_loss(self._loss)
        if self._objective is None:
            return self._eager(args, kwargs)
        own = self._key(args, kwargs)
        graphs = [made for key, made in self._steps.items() if key[0] == own]
        fits = all(made.fits for made in graphs if isinstance(made, Recording))
        every = here().agreed(None if is_handled() or not fits else own)
        if every is None:
            return self._eager(args, kwargs)
        key = own, every
        found = self._steps.pop(key, 0)
        self._steps[key] = found  # the last used comes last
        if isinstance(found, Recording):
            if found not in self._equal:
                return self._compare(found, args, kwargs)
            return self._act(found.params, found.publish(found.replay(args, kwargs)))
        if isinstance(found, list):
            return self._record(self._objective, key, found, args, kwargs)
        self._steps[key] = found + 1
        if len(self._steps) > _KEPT:
            oldest = self._steps.pop(next(iter(self._steps)))
            self._equal -= {oldest}  # type: ignore[arg-type]
        if found + 1 < _FIRST:
            return self._eager(args, kwargs)
        # the last before the recording, without the checks that a trace leaves out too
        with here().noting() as notes, pyro.validation_enabled(False):
            loss = self._eager(args, kwargs)
        self._steps[key] = notes
        return loss

    def _eager(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        loss, params = self._gradients(args, kwargs)
        return self._act(params, loss)

    def _gradients(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[float, list[Tensor]]:
        """The loss, and the parameters asked for, with their gradients."""
        with poutine.trace(param_only=True) as seen:
            loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        params = [node["value"].unconstrained() for node in seen.trace.nodes.values()]
        return torch_item(loss), list(dict.fromkeys(params))

    def _record(
        self,
        objective: Objective,
        key: Key,
        notes: Notes,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> float:
        reason = None
        with undone(objective, self._modules):
            try:
                with same_environment(), self._traced(notes):
                    made = Recording(objective, self.model, self.guide, args, kwargs, self._only)
            except (
                Exception
            ) as error:  # of whatever kind: the eager step says whether it is the user's
                reason = _reason(error)
        loss = self._eager(args, kwargs)
        reason = here().first(reason)
        if reason is None:
            self._steps[key] = made
        else:
            self._stay_eager(reason)
        return loss

    def _traced(self, notes: Notes) -> AbstractContextManager[Any]:
        """Context in which a step is traced, whatever the other processes do."""
        nothing: AbstractContextManager[Any] = nullcontext()
        return here().over(nothing, lambda world: inside(Traced(world, notes)))

    def _compare(self, made: Recording, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """An eager step, after the recorded one from the same state."""
        before = State(made, args, kwargs)
        outputs = made.replay(args, kwargs)
        recorded = State(made, args, kwargs)
        before.restore()
        loss, params = self._gradients(args, kwargs)
        eager = State(made, args, kwargs)
        other = made.difference(outputs, loss, torch.equal) or recorded.difference(eager)
        other = here().first(other)
        if other is None:
            self._equal.add(made)
        else:
            self._stay_eager(f"{other} differs from the eager step's, from one random state")
        if other is None and self._compile:
            before.restore()
            self._try_compiled(made, loss, eager, args, kwargs)
            eager.restore()
        return self._act(params, loss)

    def _try_compiled(
        self,
        made: Recording,
        loss: float,
        eager: State,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Compiles a graph, and takes it if its step is the eager one up to rounding."""
        try:
            if here().size > 1:
                raise Untraceable("a compiler may have processes sum in another order each")
            with same_environment():
                made.compile()
                outputs = made.replay(args, kwargs)
        except Exception as error:  # of whatever kind: the compiler is not ours
            other: str | None = str(error).strip().splitlines()[0] or type(error).__name__
        else:
            near = up_to_rounding(outputs)
            other = made.difference(outputs, loss, near)
            other = other or State(made, args, kwargs).difference(eager, near)
            other = other and f"{other} differs from the eager step's by more than rounding"
        if other is not None:
            made.interpret()
            self._compile = False
            warnings.warn(
                f"the recorded step is not compiled, as right and slower: {other}", stacklevel=5
            )

    def _act(self, params: Collection[Tensor], loss: float) -> float:
        if self._optimizer.optim is not self.optim:
            self._optimizer = Grouped(self.optim)
        wanted = [p for p in params if self._only is None or p in self._only]
        for param in wanted:
            if param.grad is not None:
                self._moved.add(param)
                _lay_out(param)
            elif param in self._moved:
                param.grad = torch.zeros_like(param)
        self._optimizer(wanted)
        for param in params:
            param.grad = None
        return loss

    def _stay_eager(self, reason: str) -> None:
        self._objective = None
        self._steps.clear()
        warnings.warn(
            f"the training step is not recorded and stays eager, as right and slower: {reason}. "
            "SVI(..., record=False) says so beforehand",
            stacklevel=4,
        )

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """What a graph holds for fixed."""
        given = [
            (a.shape, a.dtype, a.device, a.requires_grad) if isinstance(a, Tensor) else _plain(a)
            for a in (*args, *kwargs.values())
        ]
        return (*given, *kwargs, torch.get_default_dtype(), self._held.key())


def check_loss(loss: ELBO | Callable[..., Any]) -> None:
    """Refuses a loss that several processes would each take of their own rows.

    Raises:
        ValueError: naming it.
    """
    if not isinstance(loss, Objective):
        name = getattr(loss, "__name__", type(loss).__name__)
        here().refuse(f"{name}, a loss of Pyro's,", "use InfoVAE or its kin")


def _lay_out(param: Tensor) -> None:
    """Has a gradient lie in memory as its parameter does, which a backward pass sees to.

    A graph's gradients lie as their operations left them, those of a convolution with channels
    last, say, and torch's fused optimisers take both for one run of numbers.
    """
    assert param.grad is not None
    if param.grad.stride() != param.stride():
        param.grad = torch.empty_like(param).copy_(param.grad)


def _reason(error: Exception) -> str:
    """Why a step cannot be recorded, in our words where the recorder's are of its own insides."""
    text = str(error).strip()
    if "tracing tensor" in text:
        return "a number is read from a tensor on the way (.item(), a Python branch on data)"
    return text.partition("\n")[0].rstrip(". ") or type(error).__name__


def _plain(argument: Any) -> Hashable:
    """An argument that is no tensor; what cannot be compared is of this very call."""
    return argument if isinstance(argument, Hashable) else object()
