"""Numbers in whatever form they are given, as a tensor."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_tensor"]


def as_tensor(rows: Any, name: str = "rows") -> Tensor:
    """Numbers as a tensor of the type they have, in the machine's byte order.

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
        found = rows
    else:
        if isinstance(rows, list | tuple) and rows and isinstance(rows[0], Tensor):
            return torch.stack([*rows])
        try:
            array = np.asarray(rows.to_numpy() if hasattr(rows, "to_numpy") else rows)
        except ValueError as error:  # a ragged list
            raise ValueError(f"{name} has rows of several shapes: give them one") from error
        if array.dtype.kind == "O":  # a table of columns of several types
            try:
                array = array.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} holds values that are not numbers") from error
        if array.dtype.kind not in "biuf":
            kind = type(rows).__name__
            raise ValueError(
                f"{name} is a {kind} of {array.dtype}, not real numbers: give a tensor, an array "
                "or a table of numbers"
            )
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        native = array.dtype.newbyteorder("=")
        found = torch.from_numpy(np.array(array, dtype=native))
        if isinstance(rows, list | tuple) and found.is_floating_point():
            found = found.to(torch.get_default_dtype())
    if found.is_complex():
        raise ValueError(f"{name} is {found.dtype}, not real numbers: give two columns")
    return found
