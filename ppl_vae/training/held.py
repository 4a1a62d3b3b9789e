"""What modules hold that a recorded step takes for fixed."""

from collections.abc import Hashable, Sequence
from itertools import chain
from operator import is_
from typing import Any

from torch import Tensor, nn

__all__ = ["Held"]


class Held:
    """The numbers, flags and modes of modules, and which tensors are their parameters and buffers.

    Args:
        modules: the modules; those inside them are read too.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = modules
        self._read()

    def key(self) -> Hashable:
        """Equal for equal holdings; by a look at each the one before, where none has changed."""
        if not self._unchanged():
            self._read()
        return self._key

    def _read(self) -> None:
        parts = [part for module in self._modules for part in module.modules()]
        self._vars: list[dict[str, Any]] = [vars(part) for part in parts]
        self._inside: list[dict[str, Any]] = [
            held for part in parts for held in (part._parameters, part._buffers, part._modules)
        ]
        self._types = [*map(type, chain.from_iterable(d.values() for d in self._vars))]
        self._plain = [
            (held, name)
            for held in self._vars
            for name, value in held.items()
            if isinstance(value, bool | int | float | str)
        ]
        self._values = [held[name] for held, name in self._plain]
        self._members = [*chain.from_iterable(d.values() for d in self._inside)]
        self._tensors = [m for m in self._members if isinstance(m, Tensor)]
        self._asked = [t.requires_grad for t in self._tensors]
        self._key = (*self._values, *map(id, self._tensors), *self._asked)

    def _unchanged(self) -> bool:
        members = [*chain.from_iterable(d.values() for d in self._inside)]
        return (
            self._types == [*map(type, chain.from_iterable(d.values() for d in self._vars))]
            and self._values == [held[name] for held, name in self._plain]
            and len(members) == len(self._members)
            and all(map(is_, members, self._members))
            and self._asked == [t.requires_grad for t in self._tensors]
        )
