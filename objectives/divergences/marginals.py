"""Log-densities of mixtures of Gaussians by dimension, with derivatives in closed form."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
        peaks = -0.5 * (variance.log() + math.log(2 * math.pi))
        roots = (2 * variance).rsqrt()
        values, parts = [], []
        for z, mu, root, peak in zip(codes.T, mean.T, roots.T, peaks.T, strict=True):
            scaled = (z[:, None] - mu).mul_(root)
            part = torch.addcmul(log_shares, scaled, scaled, value=-1).add_(peak)
            top = part.amax(1, keepdim=True)
            part = part.sub_(top).exp_()
            total = part.sum(1, keepdim=True)
            parts.append(part.div_(total))
            values.append((top + total.log())[:, 0])
        return torch.stack(values, 1), *parts

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:3], *output[1:])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        codes, mean, variance, *parts = ctx.saved_tensors
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
