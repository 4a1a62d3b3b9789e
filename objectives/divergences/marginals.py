"""Log-densities of mixtures of Gaussians by dimension, with derivatives in closed form."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["log_marginals"]


def log_marginals(codes: Tensor, mean: Tensor, variance: Tensor, log_shares: Tensor) -> Tensor:
    r"""$\log \sum_j s_{ij}\, N(z_{ik}; \mu_{jk}, \sigma_{jk}^2)$, `(b, d)`.

    One tensor of pairs is held for each dimension, and made where a processor's cache has it.

    Args:
        codes: z, `(b, d)`.
        mean: `(n, d)`.
        variance: `(n, d)`.
        log_shares: log s, `(b, n)`, -inf for a pair that does not count.
    """
    value: Tensor = _LogMarginals.apply(codes, mean, variance, log_shares)[0]
    return value


class _LogMarginals(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        codes: Tensor, mean: Tensor, variance: Tensor, log_shares: Tensor
    ) -> tuple[Tensor, ...]:
        """The logarithms, and by dimension each pair's part of the sum, `(b, n)`."""
        values, parts = [], []
        for part in _terms(codes, mean, variance, log_shares):
            top = part.amax(1, keepdim=True)
            part = part.sub_(top).exp_()
            total = part.sum(1, keepdim=True)
            parts.append(part.div_(total))
            values.append((top + total.log())[:, 0])
        return torch.stack(values, 1), *parts

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        codes, mean, variance, log_shares, *parts = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            parts = [term.softmax(1) for term in _terms(codes, mean, variance, log_shares)]
        precision = variance.reciprocal()
        found = []
        by_shares = None
        each = zip(grads[0].T, codes.T, mean.T, precision.T, parts, strict=True)
        for grad, z, mu, tau, part in each:
            weighed = part * grad[:, None]
            if ctx.needs_input_grad[3]:
                by_shares = weighed if by_shares is None else by_shares + weighed
            delta = z[:, None] - mu
            moved = weighed * delta
            spread = (moved * delta).sum(0) * tau - weighed.sum(0)
            found.append((-(moved @ tau), moved.sum(0) * tau, 0.5 * tau * spread))
        return *(torch.stack(of, 1) for of in zip(*found, strict=True)), by_shares


def _terms(codes: Tensor, mean: Tensor, variance: Tensor, log_shares: Tensor) -> Iterator[Tensor]:
    """By dimension, the log of each pair's term of the sum, `(b, n)`."""
    peaks = -0.5 * (variance.log() + math.log(2 * math.pi))
    roots = (2 * variance).rsqrt()
    for z, mu, root, peak in zip(codes.T, mean.T, roots.T, peaks.T, strict=True):
        scaled = (z[:, None] - mu).mul_(root)
        yield torch.addcmul(log_shares, scaled, scaled, value=-1).add_(peak)
