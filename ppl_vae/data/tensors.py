"""Numbers in whatever form they are given, as tensors."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["arguments_of", "as_tensor", "is_array"]


def as_tensor(rows: Any, name: str = "rows") -> Tensor:
    """Numbers as a tensor of the type they have, in the machine's byte order.

    Lists of floats get torch's default type; the masked values of a NumPy array are NaN.

    Args:
        rows: a tensor, a list, or anything with `__array__` or `to_numpy` (NumPy of any byte
            order, pandas, polars).
        name: what messages call them.

    Raises:
        ValueError: if they are not real numbers, all rows of one shape.

    Example:
        >>> as_tensor(np.array([1.5, 2.0], dtype=">f4"))
        tensor([1.5000, 2.0000])
    """
    if isinstance(rows, Tensor):
        if rows.layout != torch.strided or rows.is_quantized or rows.is_nested or rows.is_meta:
            raise ValueError(f"{name} is {_kind(rows)} tensor: give a dense one of plain numbers")
        found = rows.clone() if rows.is_inference() else rows  # which no gradient goes through
    elif isinstance(rows, list | tuple) and rows and isinstance(rows[0], Tensor):
        if len({part.shape for part in rows}) > 1:
            raise ValueError(f"{name} has rows of several shapes: give them one")
        found = torch.stack([*rows])
    else:
        found = torch.from_numpy(_array(rows, name))
        if isinstance(rows, list | tuple) and found.is_floating_point():
            found = found.to(torch.get_default_dtype())
    if found.is_complex():
        raise ValueError(f"{name} is {found.dtype}, not real numbers: give two columns")
    return found


def _kind(rows: Tensor) -> str:
    """What is special about a tensor, in words."""
    if rows.is_nested or rows.is_quantized or rows.is_meta:
        return "a nested" if rows.is_nested else "a quantised" if rows.is_quantized else "a meta"
    return f"a {rows.layout}".replace("torch.", "")


def _array(rows: Any, name: str) -> np.ndarray[Any, Any]:
    """Numbers as an array of a type that torch has."""
    if isinstance(rows, np.ma.MaskedArray) and rows.dtype.kind in "biuf" and np.any(rows.mask):
        rows = np.ma.filled(rows.astype(np.result_type(rows.dtype, np.float32)), np.nan)
    try:
        array = np.asarray(rows.to_numpy() if hasattr(rows, "to_numpy") else rows)
    except ValueError as error:  # a ragged list
        raise ValueError(f"{name} has rows of several shapes: give them one") from error
    if array.dtype.kind == "O":  # a table whose columns are of several types
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} holds values that are not numbers, {_first_word(rows, array)}: leave out "
                "such columns, or make numbers of them"
            ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} is a {type(rows).__name__} of {array.dtype}, not real numbers: give a "
            "tensor, an array or a table of numbers"
        )
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _first_word(rows: Any, array: np.ndarray[Any, Any]) -> str:
    """The first value that is no number, and where it is."""
    for place in np.ndindex(array.shape):
        try:
            float(array[place])
        except (TypeError, ValueError):
            names = getattr(rows, "columns", None)
            where = f"column {names[place[1]]!r}" if names is not None else f"{[*place]}"
            return f"{array[place]!r} in {where} first"
    return "too large"


def is_array(value: object) -> bool:
    """Whether a value is rows of numbers by itself: a tensor, an array or a table."""
    return isinstance(value, Tensor) or hasattr(value, "__array__") or hasattr(value, "to_numpy")


def arguments_of(rows: Any, name: str = "rows") -> tuple[Tensor, ...]:
    """The arguments of a pair: rows in any form, or a tuple of rows and what belongs to them.

    Tensors keep their type, all else is turned into floats, but for what stands besides rows.

    Args:
        rows: see `as_tensor`; a tuple or list of tensors, arrays or tables is of arguments.
        name: what messages call them.

    Raises:
        ValueError: if they are not numbers with a row for each datum, equally many.

    Example:
        >>> [part.tolist() for part in arguments_of(([[1.0], [2.0]], np.array([0, 1])))]
        [[[1.0], [2.0]], [0, 1]]
    """
    several = isinstance(rows, tuple | list) and any(is_array(part) for part in rows)
    given = tuple(rows) if several else (rows,)
    if not several and not (is_array(rows) or isinstance(rows, tuple | list)):
        raise ValueError(f"{name} is a {type(rows).__name__}: {_GIVE}")
    if isinstance(rows, tuple | list) and not rows:
        raise ValueError(f"{name} is empty: {_GIVE}")
    parts = []
    for i, part in enumerate(given):
        where = name if not several else f"{name}[{i}]"
        if not is_array(part) and not isinstance(part, tuple | list):
            raise ValueError(f"{where} is a {type(part).__name__}: {_GIVE}")
        found = as_tensor(part, where)
        if not found.ndim:
            raise ValueError(f"{where} is a tensor without rows: {_GIVE}")
        if i == 0 and not isinstance(part, Tensor) and not found.is_floating_point():
            found = found.to(torch.get_default_dtype())
        parts.append(found)
    counts = [len(part) for part in parts]
    if len(set(counts)) > 1 or not counts[0]:
        raise ValueError(f"{name} of {counts} rows: equal numbers above 0 are needed")
    return tuple(parts)


_GIVE = (
    "give tensors, arrays or tables with a row for each datum, and set other arguments "
    "beforehand, as in functools.partial(model, scale=2.0) and the same of the guide"
)
