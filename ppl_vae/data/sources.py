"""Rows in whatever form they are given, as tensors and as a data set."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ppl_vae.data.dataset import Dataset
from ppl_vae.data.tensors import as_tensor

__all__ = ["as_dataset"]


def as_dataset(data: Any, name: str = "data", **settings: Any) -> Dataset:
    """A data set of rows in any form.

    Args:
        data: a data set, which is given back; rows as a tensor, a list, or anything with
            `__array__` or `to_numpy` (NumPy, pandas, polars); or a torch `Dataset` or
            `DataLoader`, whose items are x, or x and one more: an integer is its label, numbers
            are its covariates. Those are read once, into memory, in the order they come.
        name: what messages call it.
        **settings: `normalise`, `channels`, `missing` and the rest, as in `Dataset`.

    Raises:
        ValueError: if it holds no rows of numbers.

    Example:
        >>> as_dataset([[1.0, 2.0], [3.0, 4.0]])
        Dataset(data: 2 training rows, 0 held out, each of shape (2,))
    """
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, DataLoader | TorchDataset):
        return Dataset(data, name=name, **settings)
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=256)
    parts = [_parts(batch, name) for batch in loader]
    if len({len(batch) for batch in parts}) != 1:
        raise ValueError(f"{name} has no items, or items of one and of two parts: give one kind")
    x, *rest = (torch.cat(part) for part in zip(*parts, strict=True))
    if not rest:
        return Dataset(x, name=name, **settings)
    if rest[0].ndim == 1 and not rest[0].is_floating_point():
        return Dataset(x, train_labels=rest[0], name=name, **settings)
    return Dataset(x, train_covariates=rest[0], name=name, **settings)


def _parts(batch: Any, name: str) -> tuple[Tensor, ...]:
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    numbers = all(isinstance(part, Tensor | np.ndarray) for part in parts)
    if not numbers or not 1 <= len(parts) <= 2:
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(
            f"a batch of {name} is ({kinds}): give tensors of x, or of x and its labels or "
            "covariates"
        )
    return tuple(as_tensor(part, name) for part in parts)
