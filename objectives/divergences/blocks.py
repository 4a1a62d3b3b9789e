"""What meets all pairs of rows, in memory that is linear in the rows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["block_size", "by_blocks"]

ELEMENTS = 2**20
"""Entries of the largest tensor a block makes: few enough for a processor's cache, and enough
for the dispatch of its operations to cost little."""


def block_size(per_row: int) -> int:
    """Rows to a block where each takes so many entries."""
    return max(1, ELEMENTS // max(1, per_row))


def by_blocks(
    compute: Callable[..., Tensor],
    rows: Sequence[Tensor | None],
    per_row: int,
    shared: Sequence[Tensor | None] = (),
) -> Tensor:
    """A function of rows, computed block by block and put together again.

    The backward pass computes a block once more instead of keeping what it made, and writes its
    gradients where those of all rows lie. Arguments, results and gradients are all that is held
    from one block to the next: what an allocator had to place among a block's large tensors would
    keep it from using their room again. One block is computed as it is. A backward pass that is
    itself to be differentiated holds all pairs.

    Args:
        compute: draws nothing at random; takes a block of each of `rows`, then `shared`, and
            returns a tensor of as many rows. What else it reads gets its gradient too, through a
            graph that grows by a little with each block.
        rows: tensors of as many rows each, or None, which is passed on.
        per_row: entries that a row takes in the largest tensor made.
        shared: what every block reads, such as the other rows of the pairs; or None.
    """
    size = block_size(per_row)
    n = next(len(each) for each in rows if each is not None)
    if n <= size:
        return compute(*rows, *shared)
    given = *rows, *shared
    if torch.is_grad_enabled():
        own = _stand_ins(_block(given, len(rows), slice(0, size)), [_needs(t) for t in given])
        first = compute(*own)
        if _reaches_others(first, own):
            return _checkpointed(compute, rows, shared, size)
        first = first.detach()
        if any(map(_needs, given)):
            whole: Tensor = _ByBlocks.apply(compute, first, size, len(rows), *given)
            return whole
    else:
        first = compute(*_block(given, len(rows), slice(0, size)))
    return _joined(compute, first, size, len(rows), given)


class _ByBlocks(torch.autograd.Function):
    """`by_blocks` of what `compute` takes as arguments."""

    @staticmethod
    def forward(
        ctx: Any,
        compute: Callable[..., Tensor],
        first: Tensor,
        size: int,
        count: int,
        *given: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(*given)
        ctx.compute, ctx.size, ctx.count = compute, size, count
        return _joined(compute, first, size, count, given)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given, needs = ctx.saved_tensors, ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():  # to be differentiated again
            given = [t.view_as(t) if need else t for t, need in zip(given, needs, strict=True)]
            found = _gradients(ctx.compute, given, needs, grads[0], create_graph=True)
            return None, None, None, None, *found
        total = [torch.zeros_like(t) if n else None for t, n in zip(given, needs, strict=True)]
        for rows in _slices(len(grads[0]), ctx.size):
            into = _block(total, ctx.count, rows)
            _add_gradients(
                ctx.compute, _block(given, ctx.count, rows), needs, grads[0][rows], into
            )
        return None, None, None, None, *total


def _joined(
    compute: Callable[..., Tensor],
    first: Tensor,
    size: int,
    count: int,
    given: Sequence[Tensor | None],
) -> Tensor:
    """The blocks' results, of which the first is at hand, as one tensor."""
    n = next(len(each) for each in given[:count] if each is not None)
    whole = first.new_empty(n, *first.shape[1:])
    whole[:size] = first
    for rows in _slices(n, size, start=size):
        whole[rows] = compute(*_block(given, count, rows))
    return whole


def _checkpointed(
    compute: Callable[..., Tensor],
    rows: Sequence[Tensor | None],
    shared: Sequence[Tensor | None],
    size: int,
) -> Tensor:
    """The same, with a gradient of whatever `compute` reads."""
    n = next(len(each) for each in rows if each is not None)
    parts = [
        checkpoint(compute, *block, *shared, use_reentrant=False, preserve_rng_state=False)
        for block in (_block(rows, len(rows), part) for part in _slices(n, size))
    ]
    return torch.cat(parts)


def _add_gradients(
    compute: Callable[..., Tensor],
    block: Sequence[Tensor | None],
    needs: Sequence[bool],
    grad: Tensor,
    into: Sequence[Tensor | None],
) -> None:
    """Adds the gradient of each of a block's arguments that needs one to what is there."""
    found = _gradients(compute, _stand_ins(block, needs), needs, grad)
    for total, part in zip(into, found, strict=True):
        if total is not None and part is not None:
            total.add_(part)


def _gradients(
    compute: Callable[..., Tensor],
    given: Sequence[Tensor | None],
    needs: Sequence[bool],
    grad: Tensor,
    create_graph: bool = False,
) -> list[Tensor | None]:
    """The gradient of each argument that needs one."""
    with torch.enable_grad():
        value = compute(*given)
    wanted = [t for t, need in zip(given, needs, strict=True) if need and t is not None]
    found = iter(
        torch.autograd.grad(value, wanted, grad, create_graph=create_graph, allow_unused=True)
    )
    return [next(found) if need else None for need in needs]


def _reaches_others(value: Tensor, own: Sequence[Tensor | None]) -> bool:
    """Whether a gradient of the value reaches leaves that are not its own."""
    todo, seen = [value.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and not any(leaf is each for each in own):
            return True
        todo += [below for below, _ in node.next_functions]
    return False


def _needs(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def _stand_ins(given: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor | None]:
    """The same numbers as leaves."""
    return [
        None if t is None else t.detach().requires_grad_(need)
        for t, need in zip(given, needs, strict=True)
    ]


def _block(given: Sequence[Tensor | None], count: int, rows: slice) -> list[Tensor | None]:
    """So many tensors' rows, and the rest as they are."""
    return [None if t is None else t[rows] if k < count else t for k, t in enumerate(given)]


def _slices(n: int, size: int, start: int = 0) -> Iterator[slice]:
    return (slice(i, min(i + size, n)) for i in range(start, n, size))
