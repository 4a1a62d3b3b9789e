"""Weights of rows, of data and of pairs of rows. A row of weight zero counts as one left out."""

import torch
from torch import Tensor

__all__ = [
    "cross_weights",
    "cyclic_shifts",
    "data_weights",
    "living_data",
    "normalised",
    "pair_total",
    "pair_weights",
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


def pair_weights(weights: Tensor, groups: Tensor | None, diagonal: bool) -> Tensor:
    """Weights of pairs of rows, `(n, n)`, zero for two rows of one datum.

    Args:
        weights: the rows' weights `(n,)`.
        groups: `(n,)` integers, equal for rows of one datum, or None where all rows differ.
        diagonal: whether a row counts against itself where there are no groups (a V-statistic).
    """
    pairs = weights[:, None] * weights
    if groups is not None:
        return pairs * (groups[:, None] != groups)
    if diagonal:
        return pairs
    return pairs * ~torch.eye(len(weights), dtype=torch.bool, device=weights.device)


def pair_total(weights: Tensor, groups: Tensor | None) -> Tensor:
    """The sum of `pair_weights` without the diagonal, without the pairs."""
    return weights.sum().square() - data_weights(weights, groups).square().sum()


def cross_weights(weights: Tensor, draws: int, aligned: bool) -> Tensor:
    """Weights of pairs of a row and a prior draw, `(n, draws)`.

    Args:
        weights: the rows' weights `(n,)`.
        draws: the number of prior draws.
        aligned: whether draw j shares row j mod n's covariates, so that their pair is left out.
    """
    pairs = weights[:, None].expand(-1, draws)
    if not aligned:
        return pairs
    rows = torch.arange(len(weights), device=weights.device)
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


def weighted_median_distance(rows: Tensor, weights: Tensor, groups: Tensor | None) -> Tensor:
    """The median distance of two rows of different data, each pair at the product of weights.

    For equal weights it is the lower median, as `torch.median`'s; zero where no pair has weight.
    """
    distances, order = torch.pdist(rows).sort()
    first, second = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    mass = weights[first] * weights[second]
    if groups is not None:
        mass = mass * (groups[first] != groups[second])
    upto = mass.double()[order].cumsum(0)
    # A half that rounding has pushed past a tie is still that half.
    index = torch.searchsorted(upto, upto[-1:] * (0.5 - 1e-10))
    return distances[index.clamp_max(len(distances) - 1)][0] * (upto[-1] > 0)
