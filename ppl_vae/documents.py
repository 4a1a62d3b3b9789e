"""YAML and JSON of plain values, from files that anybody may have written.

What is read is made of mappings with text for keys, lists, text, booleans, null and numbers, all
finite in JSON; a file is refused that is large, deep, turns into much more than it says, or refers
to itself.
"""

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ppl_vae import files

__all__ = ["conforms", "parse_json", "parse_yaml", "read_json", "read_yaml", "record"]

T = TypeVar("T")

_YAML = 2**16  # bytes of a file; and how many values and how deep, once aliases are followed
_VALUES, _DEPTH = 20_000, 50
_WHOLE = 2**63


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, empty for an empty file.

    Raises:
        OSError: if it is no plain file; see `ppl_vae.files.opened`.
        ValueError: if it is no mapping of plain values.
    """
    found = parse_yaml(files.read_text(path, _YAML), repr(str(path)))
    if not isinstance(found, dict | None):
        raise ValueError(f"{str(path)!r} is not YAML of plain values: it is no mapping")
    return found or {}


def parse_yaml(text: str, name: str) -> Any:
    """The plain value that a YAML text stands for.

    Args:
        text: the YAML.
        name: what messages call it.

    Raises:
        ValueError: if it is damaged, names a Python object, says a key twice, or is out of all
            measure: too many values, too deep, or within itself.
    """
    import yaml

    no = f"{name} is not YAML of plain values"
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}, 0) > _VALUES:
            raise _Refused(f"it stands for more than {_VALUES:,} of them")
        return _plain(loader.construct_document(node))
    except _Refused as error:
        raise ValueError(f"{no}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise ValueError(f"{no}: {where}{error.problem}") from error
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError(f"{no}: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ValueError(f"{no}: it is too deep") from error


def read_json(path: str | Path, limit: int = 2**24) -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        limit: how many bytes it may have.

    Raises:
        OSError: if it is no plain file; see `ppl_vae.files.opened`.
        ValueError: if it is damaged, or has a number that is not finite.
    """
    return parse_json(files.read_text(path, limit), str(path))


def parse_json(text: str | bytes, name: str) -> Any:
    """The value of a JSON text, its numbers finite.

    Args:
        text: the JSON.
        name: what messages call it.

    Example:
        >>> parse_json('{"a": [1, 2.5, null]}', "this")
        {'a': [1, 2.5, None]}
        >>> parse_json('{"a": 1e999}', "this")
        Traceback (most recent call last):
        ...
        ValueError: this is not a whole JSON file of plain values: 1e999 is no number
    """
    try:
        return json.loads(text, parse_int=_int, parse_float=_float, parse_constant=_float)
    except (ValueError, RecursionError) as error:
        why = "it is too deep" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{name} is not a whole JSON file of plain values: {why}") from error


def record(cls: type[T], kept: object, name: str) -> T:
    """A dataclass of plain values from what a file says of it.

    Args:
        cls: the dataclass.
        kept: a mapping of its fields, of which those with a default may be left out and others
            are not looked at.
        name: what messages call it.

    Raises:
        ValueError: if it is no mapping, lacks a field, or one is of another type.
    """
    if not isinstance(kept, Mapping):
        raise ValueError(f"{name} is damaged: it is no mapping")
    hints = get_type_hints(cls)
    given = {f.name: kept[f.name] for f in fields(cls) if f.name in kept}  # type: ignore[arg-type]
    for key, value in given.items():
        if not conforms(value, hints[key]):
            raise ValueError(f"{name} is damaged: {key!r} is not what it should be")
    try:
        return cls(**given)
    except TypeError as error:
        raise ValueError(f"{name} is damaged: it lacks a value") from error


def conforms(value: object, kind: Any) -> bool:
    """Whether a plain value is what an annotation says; a whole number is a float too.

    Example:
        >>> conforms([1, 2.5], Sequence[float]), conforms(["1"], Sequence[float])
        (True, False)
    """
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(conforms(value, each) for each in args)
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in args)
    if kind in (None, type(None)):
        return value is None
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    if kind in (int, str, bool):
        return type(value) is kind
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            conforms(k, args[0]) and conforms(v, args[1]) for k, v in value.items()
        )
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(conforms(v, args[0]) for v in value)
    return isinstance(value, Mapping)  # a record within, which is looked at on its own


class _Refused(ValueError):
    """What is not taken from a YAML text."""


def _size(node: Any, known: dict[int, int], depth: int) -> int:
    """How many values a node of YAML stands for, with what it refers to."""
    if depth > _DEPTH:
        raise _Refused("it is too deep")
    key = id(node)
    if known.get(key) == -1:
        raise _Refused("it is within itself")
    if key not in known:
        known[key], children = -1, []
        if node.id == "sequence":
            children = node.value
        elif node.id == "mapping":
            names = [each.value for each, _ in node.value if each.tag != "tag:yaml.org,2002:merge"]
            seen: set[str] = set()
            for name in names:
                if not isinstance(name, str):
                    raise _Refused("a key is no text")
                if name in seen:
                    raise _Refused(f"it says {name!r} twice: leave one")
                seen.add(name)
            children = [each for pair in node.value for each in pair]
        known[key] = 1 + sum(_size(each, known, depth + 1) for each in children)
    return known[key]


def _plain(value: Any) -> Any:
    """The value, if it is made of plain ones alone."""
    if isinstance(value, dict):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None or None in value:
            raise _Refused(f"the key {wrong!r} is no text")
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, int) and abs(value) >= _WHOLE:
        raise _Refused("a whole number in it is too large")
    if value is not None and not isinstance(value, str | bool | int | float):
        raise _Refused(f"a {type(value).__name__} is none")
    return value


def _int(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= _WHOLE:
        raise ValueError(f"{text[:20]} is too large")
    return int(text)


def _float(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is no number")
    return float(text)
