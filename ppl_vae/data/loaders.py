r"""How rows are dealt out in batches.

Batches are slices of a tensor that already lies on the device: one permutation an epoch and one
`index_select` a batch, with no work per item in Python.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ppl_vae.world import here

__all__ = ["Batches", "InMemory", "batches", "least", "splits"]

Parts = tuple[Tensor, ...]


class Batches(ABC):
    """Rows as a pair is called with them, that can be gone through in batches.

    Attributes:
        few: the rows that are in memory, all or some.
        seekable: whether a pass can begin after some of its batches, in the order it would have
            had.
    """

    few: Parts
    seekable = True

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def steps(self, batch_size: int) -> int:
        """How many batches they make."""

    @abstractmethod
    def smallest(self, batch_size: int) -> Parts:
        """Rows as many as the smallest batch has."""

    @abstractmethod
    def batches(self, batch_size: int, skip: int = 0) -> Iterator[Parts]:
        """All rows once through, in a new order, drawn when the first batch is asked for.

        Each of several processes gets its share of each batch.

        Args:
            batch_size: rows to a batch.
            skip: batches to leave out at the start, where the rows are `seekable`.
        """


class InMemory(Batches):
    """Rows that are in memory.

    Args:
        parts: tensors with rows that belong together, each `(n, ...)`.
    """

    def __init__(self, parts: Parts) -> None:
        self.few = parts

    def __len__(self) -> int:
        return len(self.few[0])

    def steps(self, batch_size: int) -> int:
        return len(splits(len(self), batch_size))

    def smallest(self, batch_size: int) -> Parts:
        size = min(part.stop - part.start for part in splits(len(self), batch_size))
        return tuple(part[:size] for part in self.few)

    def batches(self, batch_size: int, skip: int = 0) -> Iterator[Parts]:
        return batches(self.few, batch_size, skip=skip, shared=True)


def batches(
    data: Sequence[Tensor],
    batch_size: int,
    *,
    shuffle: bool = True,
    skip: int = 0,
    shared: bool = False,
) -> Iterator[tuple[Tensor, ...]]:
    r"""The rows of `data` in batches, once through.

    The order is drawn on the CPU by torch's global generator, so it is the same on every device.
    The last, smaller batch is kept; a last batch of a single row, of which no U-statistic can be
    taken, joins the one before it.

    Args:
        data: tensors with rows that belong together, each `(n, ...)`.
        batch_size: rows to a batch.
        shuffle: take the rows in a random order.
        skip: batches to leave out at the start.
        shared: give each of several processes its share of a batch.

    Example:
        >>> [len(x) for x, in batches([torch.arange(9)], 4)]
        [4, 5]
    """
    n = len(data[0])
    if any(len(part) != n for part in data):
        raise ValueError(f"data of different lengths: {[len(part) for part in data]}")
    order = torch.randperm(n).to(data[0].device) if shuffle else None
    for rows in splits(n, batch_size)[skip:]:
        if order is None:
            yield tuple(part[rows] for part in data)
        else:
            (mine,) = here().shard(order[rows]) if shared else (order[rows],)
            yield tuple(part.index_select(0, mine) for part in data)


def least() -> int:
    """The rows that a batch must have: two, or one for each process."""
    return max(2, here().among)


def splits(n: int, batch_size: int) -> list[slice]:
    """How n rows are split into batches; a last one too small to share joins the one before."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 row, got {batch_size}")
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] < least() <= batch_size:
        starts.pop()
    return [slice(a, b) for a, b in pairwise([*starts, n])]
