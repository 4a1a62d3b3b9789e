"""Expectations of radial kernels under Gaussian codes, through their mixtures of Gaussians."""

from functools import lru_cache

import torch
from torch import Tensor

from ppl_vae.objectives.divergences.gaussians import Gaussians
from ppl_vae.objectives.divergences.kernels import Kernel

__all__ = ["constant", "expected_kernel", "pairwise_kernel", "squared_distances"]


def expected_kernel(
    kernel: Kernel, a: Gaussians, b: Gaussians, squared_length: Tensor | float
) -> Tensor:
    r"""$\mathbb{E}\, k(z_i, y_j)$ for independent $z_i \sim a_i$, $y_j \sim b_j$, `(n, m)`.

    Points take the kernel itself. Otherwise, with $V = \Sigma_i + \Sigma_j$ and $\delta$ the
    difference of means, each node of the kernel's mixture, of variance $s = m_q h^2$, gives

    $$\det(I + V / s)^{-1/2} \exp\left(-\tfrac{1}{2} \delta^T (s I + V)^{-1} \delta\right).$$
    """
    if a.covariance is None and b.covariance is None:
        return kernel(squared_distances(a.mean, b.mean), squared_length)
    covariance = None if a.covariance is None else a.covariance[:, None]
    return pairwise_kernel(kernel, Gaussians(a.mean[:, None], covariance), b, squared_length)


def pairwise_kernel(
    kernel: Kernel, a: Gaussians, b: Gaussians, squared_length: Tensor | float
) -> Tensor:
    """E k for rows that broadcast against each other, by the kernel's mixture."""
    delta = a.mean - b.mean
    variance = _sum(a, b)
    is_full = a.is_full or b.is_full
    weights, multipliers = (
        constant(values, delta.dtype, delta.device) for values in kernel.mixture()
    )
    if kernel.is_distance:
        # A distance has no scale: each pair is integrated in its own, the root of E r^2, where
        # the nodes are good. Any unit gives the same number, so it passes no gradient.
        spread = variance.diagonal(dim1=-2, dim2=-1) if is_full else variance
        unit = (delta.square() + spread).sum(-1).detach()
        unit = unit.clamp_min(torch.finfo(unit.dtype).tiny ** 0.5)
        exponents = _exponents(delta, variance, is_full, multipliers * unit[..., None])
        return (weights * torch.expm1(exponents)).sum(-1) * (unit / squared_length).sqrt()
    exponents = _exponents(delta, variance, is_full, multipliers * squared_length)
    return (weights * torch.exp(exponents)).sum(-1)


@lru_cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Made once: a copy from the host at each step would stop a recorded step.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """$r^2$ of rows `(n, d)` and `(m, d)`, `(n, m)`, by a matrix product about their middle.

    About the origin the distances of codes far from it would be differences of large numbers.
    """
    middle = (a.detach().mean(0) + b.detach().mean(0)) / 2
    a, b = a - middle, b - middle
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return torch.addmm(squares, a, b.T, alpha=-2).clamp_min(0)


def _exponents(delta: Tensor, variance: Tensor, is_full: bool, scales: Tensor) -> Tensor:
    """Logs of the expected Gaussian kernels of variances `scales` `(..., nodes)`."""
    if is_full:
        nodes = scales.unbind(-1)
        return torch.stack([_full_exponent(delta, variance, s) for s in nodes], -1)
    scales = scales[..., None, :]
    variance = variance[..., None]
    terms = torch.log1p(variance / scales) + delta.square()[..., None] / (variance + scales)
    return -0.5 * terms.sum(-2)


def _full_exponent(delta: Tensor, covariance: Tensor, s: Tensor) -> Tensor:
    eye = torch.eye(delta.shape[-1], dtype=delta.dtype, device=delta.device)
    factor = torch.linalg.cholesky(eye + covariance / s[..., None, None])
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
