"""Registering a module's parameters with Pyro's parameter store, safely.

`pyro.module` and `PyroModule` keyed by a name leave a second module of that name untrained: the
store keeps the first module's tensors and the optimiser moves those. `register` gives each module
a name of its own; `settle` makes the names that a program chose itself hold what it runs.
"""

import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from pyro.params import param_with_module_name
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Misplaced", "misshapen", "register", "settle"]

_Entries = dict[str, "weakref.ref[Tensor]"]

# The name of each module that `register` has seen, and what it has put into the store.
_registered: weakref.WeakKeyDictionary[nn.Module, tuple[str, _Entries]] = (
    weakref.WeakKeyDictionary()
)
# Entries of modules that are gone. The store is put right at the next call, as a module may be
# collected at any moment, while somebody goes through the store.
_left: deque[_Entries] = deque()


def register(module: nn.Module) -> str:
    """Registers the trainable parameters of `module` and returns the name they stand under.

    The name is the class's, or the first of `VAE_2`, `VAE_3`, ... whose stored tensors, if any,
    are the module's own; a module keeps its name, and the store forgets it once the module is
    gone. Frozen parameters are left out. Calling it again is free of effect, so models and guides
    call it each time they run.

    Args:
        module: the module whose parameters `pyro.infer.SVI` is to train.

    Raises:
        ValueError: if the store keeps a copy instead of the module's tensor, as it does for one
            that is not contiguous (a convolution in `channels_last` format): the copy would be
            trained and the module would not.
    """
    while _left:
        _remove(_left.popleft())
    own = dict(module.named_parameters())
    trained = {key: parameter for key, parameter in own.items() if parameter.requires_grad}
    if not trained:
        return type(module).__name__
    params = pyro.get_param_store()._params
    name, entries = _registered.get(module) or ("", {})
    prefix = param_with_module_name(name, "")
    stored = [params.get(prefix + key) is p for key, p in trained.items()]
    if not all(stored):
        for key, parameter in trained.items():
            if not parameter.is_contiguous():  # before anything is stored, to be put right
                raise _copied(module, key)
        name = next(n for n in _names(module, name if any(stored) else "") if _is_vacant(n, own))
        prefix = param_with_module_name(name, "")
        if module not in _registered:
            weakref.finalize(module, _left.append, entries).atexit = False
        _registered[module] = name, entries
        entries |= {prefix + key: weakref.ref(p) for key, p in trained.items()}
    for key, parameter in trained.items():
        pyro.param(prefix + key, parameter)
    return name


def _names(module: nn.Module, known: str) -> Iterator[str]:
    if known:
        yield known
    stem = type(module).__name__
    yield stem
    for k in count(2):
        yield f"{stem}_{k}"


def _is_vacant(name: str, own: Mapping[str, Tensor]) -> bool:
    """Whether nothing but the parameters `own` stands under a module's name."""
    prefix = param_with_module_name(name, "")
    params = pyro.get_param_store()._params
    return all(
        params[key] is own.get(key[len(prefix) :]) for key in params if key.startswith(prefix)
    )


def _copied(module: nn.Module, key: str) -> ValueError:
    return ValueError(
        f"parameter {key!r} of {type(module).__name__} is stored by Pyro as a copy and would not "
        "be trained: make it contiguous (module.to(memory_format=torch.contiguous_format)) "
        "before the first step"
    )


def _remove(entries: _Entries) -> None:
    store = pyro.get_param_store()
    for name, parameter in entries.items():
        stored = store._params.get(name)
        if stored is not None and stored is parameter():
            _pop(name)
            store._constraints.pop(name, None)


def _pop(name: str) -> None:
    store = pyro.get_param_store()
    stored = store._params.pop(name)
    if store._param_to_name.get(stored) == name:  # a shared tensor may have other names
        del store._param_to_name[stored]


class Misplaced(Messenger):
    """Sees which parameters are asked for under a name that holds another tensor.

    `pyro.param` gives back what stands under the name and says nothing: a module goes on with its
    own tensor, which no optimiser moves, and a tensor of another shape is broadcast.

    Attributes:
        found: by name, the module parameters that are not what the store has.

    Raises:
        ValueError: at the end, where a stored parameter has another shape than the one asked for,
            or is without the constraint asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Tensor] = {}
        self._wrong: ValueError | None = None

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)
        # not at the site: the traces of a run put shapes under every error
        if self._wrong is not None:
            raise self._wrong from error
        if error is not None:  # of shapes, it may be, which a module took from the store
            self.check()

    def _process_message(self, msg: Any) -> None:
        """Nothing, at less than the price of looking for a method."""

    def _postprocess_message(self, msg: Any) -> None:
        if msg["type"] != "param" or len(msg["args"]) < 2:
            return
        (name, asked), value = msg["args"], msg["value"]
        if value is asked or not isinstance(asked, Tensor):
            return
        if not _is_free(name):
            self._note(name, asked, value)
        elif not _is_real(constraint := msg["kwargs"].get("constraint", constraints.real)):
            self._wrong = self._wrong or ValueError(
                f"parameter {_plain(name)!r} is asked for under the constraint {constraint}, but "
                f"stands in Pyro's store, from an earlier model, without one: {_CURE}"
            )
        elif asked.requires_grad and asked.is_leaf:
            self.found[name] = asked
        else:
            self._note(name, asked, value)

    def _note(self, name: str, asked: Tensor, stored: Tensor) -> None:
        if self._wrong is None and not _are_alike(asked, stored):
            self._wrong = misshapen(name, asked.shape, stored.shape)

    def used_by(self, loss: Tensor) -> dict[str, Tensor]:
        """Those of `found` that a loss depends on."""
        if not self.found or not loss.requires_grad:
            return {}
        grads = torch.autograd.grad(
            loss, list(self.found.values()), retain_graph=True, allow_unused=True
        )
        return {n: p for (n, p), g in zip(self.found.items(), grads, strict=True) if g is not None}

    def check(self, used: Collection[str] = ()) -> None:
        """Refuses what is read from the store, as all but `used` is, in another shape."""
        for name, asked in self.found.items():
            stored = pyro.get_param_store()[name]
            if name not in used and not _are_alike(asked, stored):
                raise misshapen(name, asked.shape, stored.shape)


_CURE = "give it another name, or call pyro.clear_param_store() before a new model"


def misshapen(name: str, asked: Sequence[int], stored: Sequence[int]) -> ValueError:
    """The error that a parameter of an earlier model has another shape."""
    return ValueError(
        f"parameter {_plain(name)!r} has shape {tuple(stored)} in Pyro's store, from an earlier "
        f"model, where {tuple(asked)} is asked for: {_CURE}"
    )


def _are_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two shapes are the same, dimensions of size 1 aside."""
    return a.shape == b.shape or [n for n in a.shape if n != 1] == [n for n in b.shape if n != 1]


def _is_free(name: str) -> bool:
    """Whether a stored parameter has no constraint."""
    return _is_real(pyro.get_param_store()._constraints.get(name, constraints.real))


def _is_real(constraint: Any) -> bool:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return isinstance(constraint, type(constraints.real))


def settle(run: Callable[[], object], strangers: Mapping[str, Tensor] | None = None) -> None:
    """Makes the names of a program's parameters hold the tensors that it runs with.

    A module registered under a name that holds another module's tensors takes the name over, as
    when a notebook's cell is run again; parameters that are read from the store
    (`pyro.param`, `update_module_params=True`) are left as they are.

    Args:
        run: runs the program once, without effect on anything else.
        strangers: the tensors it uses that are not under their name, where that is known.

    Raises:
        ValueError: if two modules share a name in one run, or one is made anew in each run.
    """
    if strangers is None:
        strangers = _strangers(run)
    if not strangers:
        return
    store = pyro.get_param_store()
    for name, own in strangers.items():
        # not by store[name] = own, which copies what is not contiguous
        _pop(name)
        store._params[name], store._param_to_name[own] = own, name
        pyro.param(name)  # an SVI that looks on trains what stands here now
    for name in _strangers(run):
        raise ValueError(
            f"parameter {_plain(name)!r} is of two modules of that name, or of one made anew at "
            "each run, and only one would be trained: make modules once, outside model and "
            "guide, and give each a name of its own"
        )


def _strangers(run: Callable[[], object]) -> dict[str, Tensor]:
    with Misplaced() as names:
        run()
    if not names.found:
        return {}
    with Misplaced() as again, _Used(again.found) as used:
        run()
    names.check(used.seen)
    return used.seen


class _Used(TorchDispatchMode):
    """Notes which of the tensors in `among`, which may grow, an operation reads."""

    def __init__(self, among: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.among, self.seen = among, dict[str, Tensor]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.seen |= {name: own for name, own in self.among.items() if own is leaf}
        return func(*args, **kwargs)


def _plain(name: str) -> str:
    return name.replace("$$$", ".")
