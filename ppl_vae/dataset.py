r"""What a data set is, and how its rows are dealt out.

Batches are slices of a tensor that already lies on the device: one permutation an epoch and one
`index_select` a batch, with no work per item in Python.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

__all__ = ["Dataset", "batches", "check_finite", "check_values", "first_marked", "splits"]


class Dataset:
    r"""Training rows and held-out rows of one shape.

    Args:
        train: the training rows, `(n, *size)`; integers are turned into floats.
        test: the held-out rows, `(m, *size)`, or None.
        train_labels: the class of each training row as an integer, `(n,)`, or None.
        test_labels: the same of the held-out rows.
        name: what pictures and messages call it.
        classes: the names of the classes.

    Raises:
        ValueError: if a value is NaN or infinite (its place is named), if a row has another shape
            than the rest, or if there is not one label for each row.

    Example:
        >>> data = Dataset(torch.zeros(6, 2), test=torch.ones(3, 2), name="toy")
        >>> data
        Dataset(toy: 6 training rows, 3 held out, each of shape (2,))
    """

    def __init__(
        self,
        train: Tensor,
        test: Tensor | None = None,
        train_labels: Tensor | None = None,
        test_labels: Tensor | None = None,
        *,
        name: str = "data",
        classes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.train = check_values(train, f"{name}: train")
        self.test = None if test is None else check_values(test, f"{name}: test")
        if self.test is not None and self.test.shape[1:] != self.size:
            raise ValueError(
                f"{name}: held-out rows have shape {tuple(self.test.shape[1:])} where training "
                f"rows have {tuple(self.size)}: reshape them to one shape"
            )
        self.train_labels = _check_labels(train_labels, self.train, f"{name}: train_labels")
        self.test_labels = _check_labels(test_labels, self.test, f"{name}: test_labels")
        self.classes = tuple(classes)

    @property
    def size(self) -> torch.Size:
        """The shape of one row."""
        return self.train.shape[1:]

    def epoch(self) -> Tensor:
        """The training rows as they stand for one pass, `(n, *size)`."""
        return self.train

    def to(self, device: torch.device | str) -> Self:
        """The same data on `device`."""
        moved = copy(self)
        for key in ("train", "test", "train_labels", "test_labels"):
            value = getattr(self, key)
            setattr(moved, key, None if value is None else value.to(device))
        return moved

    def __len__(self) -> int:
        return len(self.train)

    def __repr__(self) -> str:
        held = 0 if self.test is None else len(self.test)
        return (
            f"{type(self).__name__}({self.name}: {len(self)} training rows, {held} held out, "
            f"each of shape {tuple(self.size)})"
        )


def batches(
    data: Sequence[Tensor], batch_size: int, *, shuffle: bool = True
) -> Iterator[tuple[Tensor, ...]]:
    r"""The rows of `data` in batches, once through.

    The order is drawn on the CPU by torch's global generator, so it is the same on every device.
    The last, smaller batch is kept; a last batch of a single row, of which no U-statistic can be
    taken, joins the one before it.

    Args:
        data: tensors with rows that belong together, each `(n, ...)`.
        batch_size: rows to a batch.
        shuffle: take the rows in a random order.

    Example:
        >>> [len(x) for x, in batches([torch.arange(9)], 4)]
        [4, 5]
    """
    n = len(data[0])
    if any(len(part) != n for part in data):
        raise ValueError(f"data of different lengths: {[len(part) for part in data]}")
    order = torch.randperm(n).to(data[0].device) if shuffle else None
    for rows in splits(n, batch_size):
        if order is None:
            yield tuple(part[rows] for part in data)
        else:
            yield tuple(part.index_select(0, order[rows]) for part in data)


def splits(n: int, batch_size: int) -> list[slice]:
    """How n rows are split into batches."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 row, got {batch_size}")
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and batch_size > 1 and n - starts[-1] == 1:
        starts.pop()
    return [slice(a, b) for a, b in pairwise([*starts, n])]


def check_finite(x: Tensor, name: str) -> None:
    """Raises ValueError naming the first value of `x` that is NaN or infinite."""
    wrong = ~torch.isfinite(x)
    if wrong.any():
        value, place = first_marked(x, wrong)
        raise ValueError(
            f"{name}{place} is {value} ({int(wrong.sum())} such values): drop those rows or fill "
            "them in"
        )


def check_values(x: Tensor, name: str) -> Tensor:
    """`x` as floats, held to be rows of finite values."""
    if x.ndim < 2 or not x.numel():
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, not (rows, *shape of one row): reshape it, a "
            "single number per row being (n, 1)"
        )
    check_finite(x, name)
    return x.to(torch.get_default_dtype())


def _check_labels(labels: Tensor | None, rows: Tensor | None, name: str) -> Tensor | None:
    if labels is None:
        return None
    if rows is None or labels.shape != (len(rows),):
        held = 0 if rows is None else len(rows)
        raise ValueError(
            f"{name} has shape {tuple(labels.shape)}, not one for each of {held} rows"
        )
    if labels.is_floating_point():
        raise ValueError(f"{name} are {labels.dtype}, not integers")
    return labels.long()


def first_marked(x: Tensor, wrong: Tensor) -> tuple[float, str]:
    """The first marked value of `x`, and its place as `[i, j]`."""
    place = wrong.nonzero()[0].tolist()
    return float(x[tuple(place)]), str(place)
