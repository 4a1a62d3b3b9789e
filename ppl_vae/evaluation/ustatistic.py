"""Sums of a kernel over all pairs of rows, and the variance of the squared MMD they give."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

__all__ = ["MMDTerms", "PairSums", "pair_sums"]


@dataclass(frozen=True)
class PairSums:
    """Row and column means of a kernel matrix, its mean and its mean square.

    The diagonal is left out where both sides are the same rows.
    """

    rows: Tensor
    columns: Tensor
    mean: float
    square: float

    @property
    def degenerate(self) -> float:
        """The variance of the kernel with both projections taken out."""
        spread = float(self.rows.var()) + float(self.columns.var())
        return max(self.square - self.mean**2 - spread, 0.0)


def pair_sums(
    kernel: Callable[[Tensor], Tensor], left: Tensor, right: Tensor, block: int, same: bool
) -> PairSums:
    r"""Sums over all pairs of $k(l_i^T r_j)$, in memory that is linear in rows.

    Args:
        kernel: an elementwise function of the products, which may write where they are.
        left: `(n, f)`.
        right: `(m, f)`.
        block: rows and columns of the kernel matrix held at once.
        same: whether both sides stand for the same rows: the diagonal is then left out, and only
            half the blocks run.
    """
    n, m = len(left), len(right)
    zeros = partial(torch.zeros, dtype=torch.float64, device=left.device)
    rows, columns, square = zeros(n), zeros(m), zeros(())
    # Next to one exponential a number, what is done for each block counts: views are made before,
    # and sums put together after a row of blocks. Memory that is new for each would take longer to
    # get than to fill.
    room = lru_cache(left.new_empty)
    transposed, by_column = [b.T for b in right.split(block)], columns.split(block)
    for i, (a, row) in enumerate(zip(left.split(block), rows.split(block), strict=True)):
        sums, squares = [], []
        for j in range(i if same else 0, len(transposed)):
            products = room(len(a), transposed[j].shape[1])
            values = kernel(torch.mm(a, transposed[j], out=products))
            if same and i == j:
                values.fill_diagonal_(0)
            else:
                by_column[j].add_(values.sum(0))
            flat = values.flatten()
            sums.append(values.sum(1))
            squares.append(torch.dot(flat, flat))
        row.add_(torch.stack(sums).sum(0, dtype=torch.float64))
        each = torch.stack(squares).double()
        square.add_(2 * each.sum() - each[0] if same else each.sum())
    if same:
        rows = columns = rows + columns
    pairs = n * (m - 1) if same else n * m
    per_row, per_column = (n - 1, n - 1) if same else (m, n)
    return PairSums(
        rows / per_row, columns / per_column, float(rows.sum()) / pairs, float(square) / pairs
    )


@dataclass(frozen=True)
class MMDTerms:
    """The three kernel means of a squared MMD between samples z and y."""

    zz: PairSums
    zy: PairSums
    yy: PairSums

    @property
    def value(self) -> float:
        """The U-statistic."""
        return self.zz.mean - 2 * self.zy.mean + self.yy.mean

    def variance(self, n: int | None = None, m: int | None = None) -> float:
        r"""The variance of the U-statistic of n and m rows, by default as many as there are.

        With $\zeta$ the variances of the projections $h(z) = E k(z, z') - E k(z, y)$ and $h(y)$,
        and $\delta$ those of the kernel with its projections taken out,

        $$\frac{4 \zeta_z}{n} + \frac{4 \zeta_y}{m} + \frac{2 \delta_{zz}}{n (n - 1)}
          + \frac{4 \delta_{zy}}{n m} + \frac{2 \delta_{yy}}{m (m - 1)}$$

        The first order vanishes where the laws are equal, the second is then all there is.
        """
        rows, columns = len(self.zz.rows), len(self.yy.rows)
        n, m = rows if n is None else n, columns if m is None else m
        zz, zy, yy = (s.degenerate for s in (self.zz, self.zy, self.yy))
        # A row's projection is itself a mean over the other rows; the noise of that mean is taken
        # off its variance before it counts.
        noise_z = zz / (rows - 1) + zy / columns
        noise_y = yy / (columns - 1) + zy / rows
        first_z = max(float((self.zz.rows - self.zy.rows).var()) - noise_z, 0.0)
        first_y = max(float((self.yy.rows - self.zy.columns).var()) - noise_y, 0.0)
        second = 2 * zz / (n * (n - 1)) + 4 * zy / (n * m) + 2 * yy / (m * (m - 1))
        return 4 * first_z / n + 4 * first_y / m + second
