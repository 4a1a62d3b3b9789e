"""What an annotation admits in a configuration: plain values, named classes, or both."""

import inspect
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
from pyro.optim import PyroOptim
from torch import nn

from ppl_vae.data.dataset import Dataset
from ppl_vae.documents import parse_yaml
from ppl_vae.objectives import Kernel

__all__ = ["Slot", "read_slot"]

_PLAIN: dict[object, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}

# Callables that are parts of their own kind.
_NO_FUNCTIONS = (nn.Module, PyroOptim, Dataset, Kernel)

# Where the networks are that are made from two shapes, or from a shape and a dimension.
_HOMES = {
    (torch.Size, torch.Size): "ppl_vae.bodies",
    (torch.Size, int): "ppl_vae.guides",
}


@dataclass
class Slot:
    """One place in a configuration.

    Attributes:
        plain: the plain types it admits.
        words: the words it admits.
        classes: classes an instance of whose subclass it admits.
        factories: classes of which it admits a factory, with the number of arguments that is
            called with.
        homes: packages of the library whose networks it offers, where any network will do.
        functions: numbers of arguments of the functions it admits, -1 for any; none of the
            library's classes is taken for a function of any arguments.
        items: what the items of a list are; several for a tuple's, in order.
        values: what the values of a mapping are.
    """

    plain: set[object] = field(default_factory=set)
    words: list[Any] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)
    factories: list[tuple[type, int]] = field(default_factory=list)
    homes: list[str] = field(default_factory=list)
    functions: list[int] = field(default_factory=list)
    items: list["Slot"] = field(default_factory=list)
    values: list["Slot"] = field(default_factory=list)

    @property
    def is_part(self) -> bool:
        """Whether a class may be named here, itself or in what it holds."""
        return bool(self.classes or self.factories or self.functions) or any(
            inner.is_part for inner in (*self.items, *self.values)
        )

    @property
    def is_known(self) -> bool:
        """Whether the annotation says anything of what is admitted."""
        return bool(self.plain or self.words or self.items or self.values) or self.is_part

    def item(self, index: int) -> "Slot":
        """What stands at a place of a list."""
        return self.items[min(index, len(self.items) - 1)] if self.items else Slot()

    @property
    def value(self) -> "Slot":
        """What a value of a mapping is."""
        return self.values[0] if self.values else Slot()

    @property
    def text(self) -> bool:
        """Whether any text is admitted."""
        return str in self.plain

    def admits(self, cls: type) -> bool:
        """Whether the class `cls` fits here."""
        if any(issubclass(cls, base) and cls is not base for base in self.classes):
            return True
        if any(issubclass(cls, base) for base, _ in self.factories):
            return True
        return any(_is_function(cls, count) for count in self.functions)

    def offers(self, cls: type) -> bool:
        """Whether the library's class `cls` may be named here.

        Any network fits where one is wanted, and few make sense: those made from the same shapes.
        """
        bases = {*self.classes, *(base for base, _ in self.factories)} - {nn.Module}
        if any(issubclass(cls, base) for base in bases) or nn.Module not in self.networks:
            return self.admits(cls)
        return issubclass(cls, nn.Module) and cls.__module__.startswith(tuple(self.homes))

    @property
    def networks(self) -> set[type]:
        """The classes of modules it admits, themselves or by a factory."""
        every = {*self.classes, *(base for base, _ in self.factories)}
        return {base for base in every if issubclass(base, nn.Module)}

    def is_factory(self, cls: type) -> bool:
        """Whether what is wanted of `cls` is a factory and not an instance.

        Where either will do it is a factory if the caller's arguments are all it needs.
        """
        counts = [count for base, count in self.factories if issubclass(cls, base)]
        if not counts or not any(issubclass(cls, base) for base in self.classes):
            return bool(counts)
        given = list(inspect.signature(cls).parameters.values())[: counts[0]]
        return len(given) == counts[0] and all(p.default is p.empty for p in given)

    def given(self, cls: type) -> int:
        """How many of the first settings of `cls` the factory's caller gives."""
        if not self.is_factory(cls):
            return 0
        return next(count for base, count in self.factories if issubclass(cls, base))

    def parsed(self, text: str) -> Any:
        """What a text stands for: itself where text is admitted, else as YAML reads it."""
        if text in self.words:
            return text
        if self.text and not (text == "null" and type(None) in self.plain):
            return text
        for number in (int, float):
            # YAML 1.1 does not take 1e-3 for a number
            if number in self.plain or float in self.plain:
                try:
                    return number(text)
                except ValueError:
                    continue
        try:
            return parse_yaml(text, "a value")
        except ValueError:
            return text

    def described(self, names: Iterable[str] = ()) -> str:
        """What is admitted, in words."""
        found = [what for plain, what in _PLAIN.items() if plain in self.plain]
        found += ["one of " + ", ".join(map(repr, self.words))] if self.words else []
        if self.items:
            numbers = {int, float} & set(self.items[0].plain)
            found.append(f"a list like {'[1,2]' if numbers else '[a,b]'!r}")
        found += [" or ".join(sorted(names))] if names else []
        found += ["a mapping"] if self.values else []
        return " or ".join(found) or "a value it takes"


def read_slot(annotation: Any) -> Slot:
    """Reads an annotation."""
    slot = Slot()
    _read(annotation, slot)
    return slot


def _read(annotation: Any, slot: Slot) -> None:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for arg in args:
            _read(arg, slot)
    elif origin is Annotated:
        _read(args[0], slot)
    elif origin is Literal:
        slot.words += args
    elif origin is Callable or annotation is Callable:
        given, made = args if args else (..., Any)
        count = len(given) if isinstance(given, list) else -1
        if inspect.isclass(made) and (made is nn.Module or made.__module__.startswith("ppl_vae.")):
            slot.factories.append((made, count))
            if made is nn.Module:
                slot.homes += [_HOMES[tuple(given)]] if tuple(given) in _HOMES else []
        else:
            slot.functions.append(count)
    elif annotation in _PLAIN:
        slot.plain.add(annotation)
    elif origin is not None and issubclass(origin, Mapping):
        slot.values.append(read_slot(args[1]))
    elif origin is not None and issubclass(origin, Collection):
        slot.items += [read_slot(arg) for arg in args if arg is not ...]
    elif annotation in (list, tuple, set, Sequence):
        slot.items.append(Slot())
    elif annotation in (dict, Mapping):
        slot.values.append(Slot())
    elif inspect.isclass(annotation) and annotation is not Any:
        # whatever class it is: a parser would import what is named here
        slot.classes.append(annotation)


def _is_function(cls: type, count: int) -> bool:
    """Whether instances of `cls` are plain functions of so many arguments."""
    # asked of the bases, as every class has its metaclass's
    call = next((vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base)), None)
    if call is None or issubclass(cls, _NO_FUNCTIONS):
        return False
    return count == len(inspect.signature(call).parameters) - 1
