"""Sums of E k over pairs of rows: all of them, or each row with a few others by random shifts."""

import torch
from torch import Tensor

from ppl_vae.objectives.divergences.expectation import matched_sum, pair_sums
from ppl_vae.objectives.divergences.gaussians import Gaussians
from ppl_vae.objectives.divergences.kernels import Kernel
from ppl_vae.objectives.divergences.weighting import (
    cyclic_shifts,
    pair_total,
    pair_weights,
    rows_by_datum,
)

__all__ = ["sum_across", "sum_within"]


def sum_within(
    kernel: Kernel,
    length: Tensor | float,
    rows: Gaussians,
    weights: Tensor,
    groups: Tensor | None = None,
    data: int | None = None,
    diagonal: bool = False,
    shifts: int | None = None,
) -> Tensor:
    """The sums of weight times E k and of weight, `(2,)`, over pairs of rows of different data.

    Args:
        kernel: the kernel.
        length: its squared length-scale.
        rows: the rows.
        weights: theirs, `(n,)`.
        groups: equal for rows of one datum.
        data: the number of data, where the groups tell it.
        diagonal: whether a row counts against itself.
        shifts: of how many others each datum meets; all where None or as many. The first sum is
            an unbiased estimate then, and the second that of all pairs: a ratio of two random
            sums would be biased.
    """
    table = None if shifts is None else rows_by_datum(groups, weights, data)
    if table is not None and shifts is not None and shifts < len(table) - 1:
        total = _over_shifts(kernel, length, rows, weights, table, shifts)
        return torch.stack([total, pair_total(weights, groups)])
    return pair_sums(
        kernel, rows, rows, length, lambda block: pair_weights(weights, groups, diagonal, block)
    ).sum(0)


def sum_across(
    kernel: Kernel,
    length: Tensor | float,
    rows: Gaussians,
    weights: Tensor,
    others: Gaussians,
    theirs: Tensor,
    shifts: int | None = None,
) -> Tensor:
    """The sums of weight times E k and of weight, `(2,)`, over pairs with rows of other data.

    Args:
        kernel, length, rows, weights: as in `sum_within`.
        others: what they meet, such as rows of the past.
        theirs: the weights of those, `(m,)`.
        shifts: how many each row meets, as in `sum_within`.
    """
    if shifts is None or shifts >= len(others):
        total = pair_sums(
            kernel, rows, others, length, lambda block: weights[block][:, None] * theirs
        )[:, 0].sum()
    else:
        _, partners, share = cyclic_shifts(theirs > 0, shifts, first=0)
        mine = torch.arange(len(rows), device=weights.device)
        # The rows take the places of the others in turn.
        total = matched_sum(
            kernel,
            rows,
            others,
            length,
            mine[:, None],
            partners.T[mine % len(others)],
            lambda one, other: weights[one] * theirs[other] * share[:, 0],
        )
    return torch.stack([total, weights.sum() * theirs.sum()])


def _over_shifts(
    kernel: Kernel,
    length: Tensor | float,
    rows: Gaussians,
    weights: Tensor,
    table: Tensor,
    shifts: int,
) -> Tensor:
    """An unbiased estimate of the weighted sum of E k over pairs of rows of different data.

    Each datum is paired with R others by random cyclic shifts of the data that have weight, all
    rows of the one with all rows of the other. Dead pairs would make the sum of the live ones
    vary from call to call. `table` holds the rows of each datum, `(data, choices)`, as
    `rows_by_datum` gives them, and R is less than the number of data less 1.
    """
    data = (weights[table] * (table >= 0)).detach()
    order, partners, share = cyclic_shifts(data.sum(1) > 0, shifts, first=1)

    def pairs(one: Tensor, other: Tensor) -> Tensor:
        # An index below 0 stands where a datum has fewer rows.
        present = (one >= 0) & (other >= 0)
        return present * share[..., None] * weights[one] * weights[other]

    left, right = table[order][:, None, :, None], table[partners.T][:, :, None]
    return matched_sum(kernel, rows, rows, length, left, right, pairs)
