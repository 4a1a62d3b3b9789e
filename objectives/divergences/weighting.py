"""Weights of rows, of data and of pairs of rows. A row of weight zero counts as one left out."""

import torch
from torch import Tensor

from ppl_vae.objectives.divergences.blocks import block_size

__all__ = [
    "cross_weights",
    "cyclic_shifts",
    "data_weights",
    "living_data",
    "normalised",
    "pair_total",
    "pair_weights",
    "partner_weights",
    "rows_by_datum",
    "stand_in",
    "weighted_median_distance",
]


def normalised(weights: Tensor) -> Tensor:
    """Weights over their sum; zeros stay zeros where all are."""
    total = weights.sum()
    return weights / torch.where(total > 0, total, 1)


def stand_in(rows: Tensor, weights: Tensor) -> Tensor:
    """The rows, of any shape behind `(n,)`, with each of weight zero replaced by one that counts.

    What looks at rows and not at weights then meets no row that a mask has left out, and no
    gradient reaches one, whatever it holds, NaN included.
    """
    if not len(rows):
        return rows
    alive = weights > 0
    first = alive.to(torch.uint8).argmax(0, keepdim=True)
    shape = (-1,) + (1,) * (rows.dim() - 1)
    return torch.where(alive.reshape(shape), rows, rows.detach().index_select(0, first))


def data_weights(weights: Tensor, groups: Tensor | None) -> Tensor:
    """The sum of weights of each datum, `(n,)`, in no particular place."""
    if groups is None:
        return weights
    return weights.new_zeros(len(weights)).index_add(0, groups, weights)


def living_data(weights: Tensor, groups: Tensor | None) -> Tensor:
    """How many data have weight, of the weights' type."""
    return (data_weights(weights.detach(), groups) > 0).sum().to(weights)


def rows_by_datum(groups: Tensor | None, weights: Tensor, data: int | None) -> Tensor:
    """The rows of each datum, `(data, choices)`, -1 where a datum has fewer than another.

    Args:
        groups: `(n,)` integers, equal for rows of one datum, or None where all rows differ.
        weights: the rows' weights `(n,)`, for their number and device.
        data: the number of data where the groups are `arange(n) % data`; if None it is read from
            the groups, which waits for the device.
    """
    rows = torch.arange(len(weights), device=weights.device)
    if groups is None:
        return rows[:, None]
    if data is not None:
        return rows.reshape(-1, data).T
    _, datum, counts = groups.unique(return_inverse=True, return_counts=True)
    order = datum.argsort(stable=True)
    place = rows - (counts.cumsum(0) - counts)[datum[order]]
    table = rows.new_full((len(counts), int(counts.max())), -1)
    return table.index_put((datum[order], place), order)


def pair_weights(
    weights: Tensor, groups: Tensor | None, diagonal: bool, rows: Tensor | None = None
) -> Tensor:
    """Weights of pairs of rows, `(n, n)`, zero for two rows of one datum.

    Args:
        weights: the rows' weights `(n,)`.
        groups: `(n,)` integers, equal for rows of one datum, or None where all rows differ.
        diagonal: whether a row counts against itself where there are no groups (a V-statistic).
        rows: the first rows of the pairs, indices `(b,)`; all by default.
    """
    mine = weights if rows is None else weights[rows]
    return mine[:, None] * partner_weights(weights, groups, diagonal, rows)


def partner_weights(
    weights: Tensor, groups: Tensor | None, diagonal: bool, rows: Tensor | None = None
) -> Tensor:
    """Of the pairs of `pair_weights`, the weights of the second rows."""
    every = torch.arange(len(weights), device=weights.device)
    rows = every if rows is None else rows
    if groups is not None:
        return weights * (groups[rows][:, None] != groups)
    return weights.expand(len(rows), -1) if diagonal else weights * (rows[:, None] != every)


def pair_total(weights: Tensor, groups: Tensor | None) -> Tensor:
    """The sum of `pair_weights` without the diagonal, without the pairs."""
    return weights.sum().square() - data_weights(weights, groups).square().sum()


def cross_weights(
    weights: Tensor, draws: int, aligned: bool, rows: Tensor | None = None
) -> Tensor:
    """Weights of pairs of a row and a prior draw, `(n, draws)`.

    Args:
        weights: the rows' weights `(n,)`.
        draws: the number of prior draws.
        aligned: whether draw j shares row j mod n's covariates, so that their pair is left out.
        rows: the rows of the pairs, indices `(b,)`; all by default.
    """
    rows = torch.arange(len(weights), device=weights.device) if rows is None else rows
    pairs = weights[rows][:, None].expand(-1, draws)
    if not aligned:
        return pairs
    return pairs * (rows[:, None] != torch.arange(draws, device=weights.device) % len(weights))


def cyclic_shifts(alive: Tensor, shifts: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct random cyclic shifts over the living of m places.

    Place p of the order meets place p + by, modulo the number of living. Over shifts of dead
    places too, the weight of the living pairs would vary from call to call, and so the estimate.

    Args:
        alive: `(m,)`, which places live.
        shifts: R, the number of shifts, less than m.
        first: the least shift: 1 where a place must not meet itself.

    Returns:
        The order `(m,)`, the living first; where each place of the order's meets its partner,
        indices `(R, m)` into the m places; and each shift's weight `(R, 1)`, by which a sum over
        them estimates that over all shifts. It is the sum itself where R is as many.
    """
    m = len(alive)
    living = alive.sum()
    order = (~alive).to(torch.uint8).argsort(stable=True)
    candidates = torch.arange(first, m, device=alive.device)
    is_one = candidates < living
    keys = torch.rand(m - first, device=alive.device) + 2 * ~is_one
    chosen = keys.argsort()[:shifts]
    by, is_one = candidates[chosen], is_one[chosen]
    places = torch.arange(m, device=alive.device)
    partners = order[(places + by[:, None]) % living.clamp_min(1)]
    possible = (living - first).clamp_min(1)
    return order, partners, (is_one * (possible / possible.clamp_max(shifts)))[:, None]


@torch.no_grad()
def weighted_median_distance(rows: Tensor, weights: Tensor, groups: Tensor | None) -> Tensor:
    """The median distance of two rows of different data, each pair at the product of weights.

    For equal weights it is the lower median, as `torch.median`'s; zero where no pair has weight.
    It is found exactly, digit by digit, as distances are ordered as their bits are: the weight of
    each digit is counted over blocks of pairs, of which none is kept.
    """
    wide = rows.dtype == torch.float64
    rows = rows if wide else rows.float()
    as_bits = torch.int64 if wide else torch.int32
    index = torch.arange(len(rows), device=rows.device)
    blocks = index.split(block_size(len(rows)))
    median = torch.zeros(1, dtype=as_bits, device=rows.device)
    left: Tensor | None = None
    for shift in range(48 if wide else 16, -1, -16):
        mass = torch.zeros(2**16, dtype=torch.float64, device=rows.device)
        for block in blocks:
            bits = _distances(rows[block], rows).view(as_bits)
            pairs = pair_weights(weights, groups, False, block).double()
            pairs = pairs * ((bits >> shift >> 16) == median)
            mass.index_add_(0, (bits >> shift & 0xFFFF).flatten(), pairs.flatten())
        upto = mass.cumsum(0)
        # A half that rounding has pushed past a tie is still that half.
        left = upto[-1:] * (0.5 - 1e-10) if left is None else torch.minimum(left, upto[-1:])
        digit = torch.searchsorted(upto, left)
        left = left - (upto - mass).gather(0, digit)
        median = (median << 16) + digit.to(as_bits)
    return median.view(rows.dtype)[0]


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
