"""Weights of rows and of pairs of rows."""

import torch
from torch import Tensor

__all__ = ["cross_weights", "normalised", "pair_total", "pair_weights"]


def normalised(weights: Tensor) -> Tensor:
    """Weights over their sum; zeros stay zeros where all are."""
    total = weights.sum()
    return weights / torch.where(total > 0, total, 1)


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
    own = weights
    if groups is not None:
        own = weights.new_zeros(len(weights)).index_add(0, groups, weights)
    return weights.sum().square() - own.square().sum()


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
