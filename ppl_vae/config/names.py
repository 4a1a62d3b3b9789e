"""The library's public classes by name, and the settings they take."""

import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, get_type_hints

__all__ = ["BadInput", "load_class", "parameters", "public_classes", "public_path"]

HOMES = (
    "ppl_vae.data",
    "ppl_vae.priors",
    "ppl_vae.likelihoods",
    "ppl_vae.bodies",
    "ppl_vae.guides",
    "ppl_vae.objectives",
    "ppl_vae.training.optim",
    "ppl_vae",
)
"""Modules whose public classes may be named."""


class BadInput(ValueError):
    """A configuration that cannot be used; the message says where and what to write instead."""


@functools.cache
def parameters(cls: type) -> dict[str, Any]:
    """The settings of a class and their annotations, those passed on by `**kwargs` included."""
    from jsonargparse import ArgumentParser, Namespace

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "x", fail_untyped=False)
    names = getattr(parser.get_defaults(), "x", Namespace())  # none for a class of no settings
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base) and base is not object:
            hints |= get_type_hints(vars(base)["__init__"])
    order = [*inspect.signature(cls).parameters, *vars(names)]
    variadic = {
        n
        for n, p in inspect.signature(cls).parameters.items()
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    # an own class may leave its arguments without annotations
    return {n: hints.get(n, Any) for n in dict.fromkeys(order) if n not in variadic}


def holds_part(value: object) -> bool:
    """Whether a value names a class, or holds one that does."""
    if isinstance(value, Mapping):
        return "class_path" in value or any(holds_part(v) for v in value.values())
    return isinstance(value, list | tuple) and any(holds_part(v) for v in value)


def is_plain(value: object) -> bool:
    """Whether a value can stand in a YAML file."""
    if isinstance(value, Mapping):
        return all(is_plain(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(is_plain(v) for v in value)
    return value is None or isinstance(value, str | int | float)


def is_beyond(value: object) -> bool:
    """Whether a value is, or holds, a whole number that no tensor's size or index can be."""
    if isinstance(value, Mapping):
        return any(is_beyond(v) for v in value.values())
    if isinstance(value, list | tuple):
        return any(is_beyond(v) for v in value)
    return isinstance(value, int) and abs(value) >= 2**63


def is_part(value: object) -> bool:
    """Whether a value names a class."""
    return isinstance(value, Mapping) and "class_path" in value


def public_path(cls: type) -> str:
    """The import path of a class by the module that publishes it."""
    return import_paths(cls)[0]


def import_paths(cls: type) -> list[str]:
    published = [f"{home}.{cls.__name__}" for home, found in _published() if found is cls]
    return [*published, f"{cls.__module__}.{cls.__qualname__}"]


def public_classes() -> Iterator[type]:
    return iter(dict.fromkeys(cls for _, cls in _published()))


@functools.cache
def _published() -> tuple[tuple[str, type], ...]:
    found = []
    for home in HOMES:
        module = import_module(home)
        for name in module.__all__:
            if inspect.isclass(cls := getattr(module, name)) and not inspect.isabstract(cls):
                found.append((home, cls))
    return tuple(found)


def load_class(path: str) -> type:
    """The class at a path that has been found to be the library's, or is trusted."""
    module, _, name = path.rpartition(".")
    try:
        if not path.startswith("ppl_vae.") and "" not in sys.path:
            sys.path.insert(0, "")  # the user's own modules, next to their configuration
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"there is no class {path!r} ({error})") from error
    if not inspect.isclass(found):
        raise BadInput(f"{path!r} is not a class")
    return found
