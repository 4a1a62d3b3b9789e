"""The file that a training goes on from: values and tensors, checked, with nothing pickled.

It is a safetensors file. Its header holds the format's version, a SHA-256 of all that follows it,
and the values as JSON, in which a tensor stands by its name.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from ppl_vae import files

__all__ = ["NotKept", "count", "number", "read", "write"]

_KEY, _VERSION = "checkpoint", "1"
# How many bytes names and values may have: what is read of them takes some fifty times as many.
_HEADER = 2**23


class NotKept(TypeError):
    """What no checkpoint can hold."""


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: the file.
        state: numbers, text, None and tensors, in lists, tuples and mappings.

    Raises:
        NotKept: for anything else, naming where it stands, or where names and values besides
            tensors are more than 8 MB; nothing is written.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    text = json.dumps(_plain(state, "", tensors), separators=(",", ":"))
    # one entry, as the order of several would be left to chance
    header = {_KEY: f"{_VERSION} {_digest(text, tensors)} {text}"}
    content = save(tensors, header)
    if (size := _header(content)) > _HEADER:
        raise NotKept(
            f"what it holds besides tensors has {size:,} bytes, and may have {_HEADER:,}"
        )
    files.write_bytes(path, content)


def read(path: Path) -> dict[str, Any]:
    """What `write` was given, with its tensors on the CPU.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or of another version of the format.
    """
    from safetensors import SafetensorError, safe_open

    with files.opened(path, limit=2**37) as plain:
        size = _header(plain.read(8))
    damaged = ValueError(f"{str(path)!r} is not a whole checkpoint: remove it")
    if size > _HEADER:
        raise damaged
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(_KEY, "")
            # clones, as these lie where the file was read to
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise damaged from error
    version, _, rest = header.partition(" ")
    digest, _, text = rest.partition(" ")
    if version and version != _VERSION:
        raise ValueError(
            f"{str(path)!r} is of version {version[:20]!r} of the format, and this is "
            f"{_VERSION}: go on with the release of ppl-vae that wrote it"
        )
    if digest != _digest(text, tensors):
        raise damaged
    try:
        found = _value(json.loads(text), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged from error
    if not isinstance(found, dict):
        raise damaged
    return found


def count(value: object) -> int:
    """A value of a checkpoint that must be a number of something.

    Raises:
        TypeError: for any other.
    """
    if type(value) is not int or not 0 <= value < 2**62:
        raise TypeError(f"{value!r} counts nothing")
    return value


def number(value: object) -> float:
    """A value of a checkpoint that must be a number, be it infinite or NaN.

    Raises:
        TypeError: for any other.
    """
    if type(value) is not int and type(value) is not float:
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _header(content: bytes) -> int:
    """The length of the header of a safetensors file, which is said at its start."""
    return int.from_bytes(content[:8], "little")


def _plain(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON has it, whose tensors are put aside under the names of their places."""
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": place}
    if isinstance(value, numpy.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, int | str) for key in value):
        return {"map": [[k, _plain(v, f"{place}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        plain = [_plain(v, f"{place}/{k}", tensors) for k, v in enumerate(value)]
        return plain if isinstance(value, list) else {"tuple": plain}
    kind = type(value).__name__
    raise NotKept(f"{place.strip('/')} is of {kind}, which is no number, text or tensor")


def _value(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_value(each, tensors) for each in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, held),) = plain.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "map":
        return {key: _value(each, tensors) for key, each in held}
    if kind == "tuple":
        return tuple(_value(each, tensors) for each in held)
    raise ValueError(kind)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(text.encode())
    for name, x in sorted(tensors.items()):
        found.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        found.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
