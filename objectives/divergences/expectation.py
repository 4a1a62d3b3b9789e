"""Expectations of radial kernels under Gaussian codes, through their mixtures of Gaussians."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_vae.objectives.divergences.blocks import by_blocks
from ppl_vae.objectives.divergences.diagonal import constant, mixture_between
from ppl_vae.objectives.divergences.gaussians import Gaussians
from ppl_vae.objectives.divergences.kernels import Kernel

__all__ = [
    "expected_kernel",
    "matched_sum",
    "pair_sums",
    "quadratic_forms",
    "squared_distances",
]


def expected_kernel(
    kernel: Kernel, a: Gaussians, b: Gaussians, squared_length: Tensor | float
) -> Tensor:
    r"""$\mathbb{E}\, k(z_i, y_j)$ for independent $z_i \sim a_i$, $y_j \sim b_j$, `(n, m)`.

    Points take the kernel itself. Otherwise, with $V = \Sigma_i + \Sigma_j$ and $\delta$ the
    difference of means, each node of the kernel's mixture, of variance $s = m_q h^2$, gives

    $$\det(I + V / s)^{-1/2} \exp\left(-\tfrac{1}{2} \delta^T (s I + V)^{-1} \delta\right).$$

    Against points V is one side's alone, and the exponents are matrix products.
    """
    if a.covariance is None and b.covariance is None:
        return kernel(squared_distances(a.mean, b.mean), squared_length)
    if _is_separable(kernel, a, b):
        if a.covariance is None:
            return _against_points(kernel, b, a.mean, squared_length).T
        return _against_points(kernel, a, b.mean, squared_length)
    a, b = _scaled(a, squared_length), _scaled(b, squared_length)
    covariance = None if a.covariance is None else a.covariance[:, None]
    return _pairwise(kernel, Gaussians(a.mean[:, None], covariance), b)


def pair_sums(
    kernel: Kernel,
    a: Gaussians,
    b: Gaussians,
    squared_length: Tensor | float,
    pairs: Callable[[Tensor], Tensor],
) -> Tensor:
    """Each row's sums of weight times E k and of weight over its pairs, `(n, 2)`, by row blocks.

    Of rows that meet themselves, whose pairs weigh the same in either order, only the sums over
    all rows have their gradient: a row gets all of its own as the first of a pair.

    Args:
        kernel: the kernel.
        a: the rows, `(n, d)`.
        b: what they meet, `(m, d)`, which may be the same object.
        squared_length: the squared length-scale.
        pairs: the weights `(b, m)` of the pairs of some rows, by their indices `(b,)`.
    """

    def sums(rows: Tensor, *moments: Any) -> Tensor:
        weights = pairs(rows)
        some, others = Gaussians(*moments[:2]), Gaussians(*moments[2:])
        values = expected_kernel(kernel, some, others, squared_length)
        if a is b:
            values = 2 * values - values.detach()
        return torch.stack([(weights * values).sum(1), weights.sum(1)], 1)

    met = b.detached() if a is b else b
    rows = torch.arange(len(a), device=a.mean.device)
    each, per_row = [rows, a.mean, a.covariance], _per_row(kernel, a, b)
    return by_blocks(sums, each, per_row, [met.mean, met.covariance])


def matched_sum(
    kernel: Kernel,
    a: Gaussians,
    b: Gaussians,
    squared_length: Tensor | float,
    left: Tensor,
    right: Tensor,
    pairs: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The sum of weight times E k over pairs of a row of a and one of b, by blocks of them.

    Args:
        kernel: the kernel.
        a: the rows of one side.
        b: the rows of the other.
        squared_length: the squared length-scale.
        left: indices into a, which broadcast with `right`; blocks are of the first dimension.
        right: indices into b.
        pairs: the weights of pairs, from blocks of either's indices.
    """

    first, second = _scaled(a, squared_length), _scaled(b, squared_length)

    def sums(left: Tensor, right: Tensor, *moments: Any) -> Tensor:
        one, other = Gaussians(*moments[:2])[left], Gaussians(*moments[2:])[right]
        values = _pairwise(kernel, one, other)
        return (pairs(left, right) * values).flatten(1).sum(1)

    met = torch.broadcast_shapes(left.shape, right.shape)[1:].numel()
    d = a.mean.shape[-1]
    covariance = d * d if a.is_full or b.is_full else d
    per_row = met * covariance * len(kernel.mixture()[0])
    moments = [first.mean, first.covariance, second.mean, second.covariance]
    return by_blocks(sums, [left, right], per_row, moments).sum()


def _per_row(kernel: Kernel, a: Gaussians, b: Gaussians) -> int:
    """Entries that a row of a takes in the largest tensor of `expected_kernel`."""
    if a.covariance is None and b.covariance is None:
        return len(b) * kernel.entries
    d = a.mean.shape[-1]
    covariance = d * d if a.is_full or b.is_full else d
    separable = _is_separable(kernel, a, b)
    # Doubles count twice.
    each = 2 * max(len(b), covariance) if separable else len(b) * covariance
    return len(kernel.mixture()[0]) * each


def _is_separable(kernel: Kernel, a: Gaussians, b: Gaussians) -> bool:
    return (a.covariance is None or b.covariance is None) and not kernel.is_distance


def _against_points(
    kernel: Kernel, rows: Gaussians, points: Tensor, squared_length: Tensor | float
) -> Tensor:
    """E k of rows `(n, d)` with a covariance and of points `(m, d)`, `(n, m)`."""
    covariance = rows.covariance
    assert covariance is not None
    weights, multipliers = _nodes(kernel, points)
    scales = (multipliers * squared_length).reshape(-1, *[1] * covariance.dim())
    if rows.is_full:
        eye = torch.eye(points.shape[1], dtype=torch.float64, device=points.device)
        root = torch.linalg.cholesky(eye + covariance / scales)
        log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        precision = torch.cholesky_inverse(root) / scales
    else:
        log_det = torch.log1p(covariance / scales).sum(-1)
        precision = (covariance + scales).reciprocal()
    forms = quadratic_forms(points, rows.mean, precision, rows.is_full)
    exponents = -0.5 * (log_det.to(forms)[..., None] + forms)
    return torch.einsum("q,qnm->nm", weights, exponents.exp())


def quadratic_forms(points: Tensor, mean: Tensor, precision: Tensor, is_full: bool) -> Tensor:
    r"""$(y_j - \mu_i)^T P_i (y_j - \mu_i)$ by matrix products, `(..., n, m)`.

    Args:
        points: y, `(m, d)`.
        mean: $\mu$, `(n, d)`.
        precision: P, `(..., n, d, d)` if full, and its diagonals, `(..., n, d)`, if not.
        is_full: which of them.
    """
    # The form of a narrow row is a small difference of large numbers, which doubles hold.
    middle = mean.detach().mean(0)
    y, mu, p = points.double() - middle, mean.double() - middle, precision.double()
    if is_full:
        moved = (p @ mu[..., None])[..., 0]
        p, squares = p.flatten(-2), (y[:, :, None] * y[:, None]).flatten(1)
    else:
        moved, squares = p * mu, y.square()
    forms = p @ squares.T - 2 * moved @ y.T + (moved * mu).sum(-1, keepdim=True)
    return forms.clamp_min(0).to(points.dtype)


def _pairwise(kernel: Kernel, a: Gaussians, b: Gaussians) -> Tensor:
    """E k by the kernel's mixture, of rows in units of h that broadcast against each other."""
    delta, variance = a.mean - b.mean, _sum(a, b)
    is_full = a.is_full or b.is_full
    if not kernel.is_distance:
        return _mixture(kernel, delta, variance, is_full)
    # A distance has no scale: each pair is integrated in its own, the root of E r^2, where the
    # nodes are good. Any unit gives the same number, so it passes no gradient.
    spread = variance.diagonal(dim1=-2, dim2=-1) if is_full else variance
    square = (delta.square() + spread).sum(-1, keepdim=True).detach()
    square = square.clamp_min(torch.finfo(square.dtype).tiny ** 0.5)
    unit = square.sqrt()
    variance = variance / (square[..., None] if is_full else square)
    return _mixture(kernel, delta / unit, variance, is_full) * unit[..., 0]


def _mixture(kernel: Kernel, delta: Tensor, variance: Tensor, is_full: bool) -> Tensor:
    """The mixture's mean under differences of such means and (co)variances."""
    weights, multipliers = _nodes(kernel, delta)
    if not is_full:
        return mixture_between(delta, variance, weights, multipliers, kernel.is_distance)
    exponents = torch.stack([_full_exponent(delta, variance, m) for m in multipliers], -1)
    values = torch.expm1(exponents) if kernel.is_distance else torch.exp(exponents)
    return (weights * values).sum(-1)


def _nodes(kernel: Kernel, like: Tensor) -> tuple[Tensor, Tensor]:
    weights, multipliers = (constant(v, like.dtype, like.device) for v in kernel.mixture())
    return weights, multipliers


def _scaled(rows: Gaussians, squared_length: Tensor | float) -> Gaussians:
    """The rows in units of h."""
    covariance = None if rows.covariance is None else rows.covariance / squared_length
    return Gaussians(rows.mean / squared_length**0.5, covariance)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """$r^2$ of rows `(n, d)` and `(m, d)`, `(n, m)`, by a matrix product about their middle.

    About the origin the distances of codes far from it would be differences of large numbers.
    """
    middle = (a.detach().mean(0) + b.detach().mean(0)) / 2
    a, b = a - middle, b - middle
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return torch.addmm(squares, a, b.T, alpha=-2).clamp_min(0)


def _full_exponent(delta: Tensor, covariance: Tensor, s: Tensor) -> Tensor:
    eye = torch.eye(delta.shape[-1], dtype=delta.dtype, device=delta.device)
    factor = torch.linalg.cholesky(eye + covariance / s)
    solved = torch.linalg.solve_triangular(factor, delta[..., None], upper=False)[..., 0]
    log_root = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -solved.square().sum(-1) / (2 * s) - log_root


def _sum(a: Gaussians, b: Gaussians) -> Tensor:
    if a.is_full != b.is_full:
        a, b = (a, b) if a.is_full else (b, a)
        assert a.covariance is not None
        return a.covariance + (0 if b.covariance is None else torch.diag_embed(b.covariance))
    if a.covariance is None or b.covariance is None:
        present = b.covariance if a.covariance is None else a.covariance
        assert present is not None
        return present
    return a.covariance + b.covariance
