"""What meets all pairs of rows, in memory that is linear in the rows."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["block_size", "by_blocks"]

ELEMENTS = 2**24
"""Entries of the largest tensor a block makes. It is above 32 MiB, which the C library's allocator
gives back at once: what is smaller leaves holes between blocks, which grow to the size of all
pairs."""


def block_size(per_row: int) -> int:
    """Rows to a block where each takes so many entries."""
    return max(1, ELEMENTS // max(1, per_row))


def by_blocks(
    compute: Callable[..., Tensor], rows: Sequence[Tensor | None], per_row: int
) -> Tensor:
    """A function of rows, computed block by block and put together again.

    The backward pass computes a block once more instead of keeping what it made, so that only
    arguments and results are held for all rows. One block is computed as it is.

    Args:
        compute: draws nothing at random; takes a block of each of `rows` and returns a tensor of
            as many rows. What else it reads (the other rows of the pairs) gets its gradient too.
        rows: tensors of as many rows each, or None, which is passed on.
        per_row: entries that a row takes in the largest tensor made.
    """
    size = block_size(per_row)
    n = next(len(each) for each in rows if each is not None)
    if n <= size:
        return compute(*rows)
    count = -(-n // size)
    parts = [[None] * count if each is None else each.split(size) for each in rows]
    return torch.cat(
        [
            checkpoint(compute, *block, use_reentrant=False, preserve_rng_state=False)
            for block in zip(*parts, strict=True)
        ]
    )
