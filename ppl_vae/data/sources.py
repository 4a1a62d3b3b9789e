"""Rows in whatever form they are given, as a data set."""

from typing import Any

from ppl_vae.data.dataset import Dataset

__all__ = ["as_dataset"]


def as_dataset(data: Any, name: str = "data", **settings: Any) -> Dataset:
    """A data set of rows in any form.

    Args:
        data: a data set, which is given back; rows as a tensor, a list, or anything with
            `__array__` or `to_numpy` (NumPy, pandas, polars); or a torch `Dataset` or
            `DataLoader`, which is streamed, see `Dataset`.
        name: what messages call it.
        **settings: `normalise`, `channels`, `missing` and the rest, as in `Dataset`.

    Raises:
        ValueError: if it holds no rows of numbers.

    Example:
        >>> as_dataset([[1.0, 2.0], [3.0, 4.0]])
        Dataset(data: 2 training rows, 0 held out, each of shape (2,))
    """
    return data if isinstance(data, Dataset) else Dataset(data, name=name, **settings)
