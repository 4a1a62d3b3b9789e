"""Mixtures of Gaussian kernels at diagonal Gaussians, with their derivatives in closed form.

Automatic differentiation would make a tensor `(pairs, d, nodes)` for each operation of the
formula and each of its derivative, and hold most of them. By hand one is held.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["constant", "mixture_at", "mixture_between"]


@lru_cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Made once: a copy from the host at each step would stop a recorded step.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def mixture_between(
    delta: Tensor, variance: Tensor, weights: Tensor, multipliers: Tensor, less_one: bool = False
) -> Tensor:
    r"""$\sum_q w_q \prod_d (1 + V_d / m_q)^{-1/2} \exp(-\delta_d^2 / 2 (m_q + V_d))$, by pair.

    Args:
        delta: differences of means, `(..., d)`.
        variance: V, the sums of variances, `(..., d)`.
        weights: w, `(nodes,)`, which pass no gradient.
        multipliers: m, `(nodes,)`, which pass no gradient.
        less_one: whether 1 is taken off each node's product, at no loss of digits.
    """
    value: Tensor = _Between.apply(delta, variance, weights, multipliers, less_one)[0]
    return value


def mixture_at(squares: Tensor, weights: Tensor, multipliers: Tensor) -> Tensor:
    r"""$\sum_q w_q \exp(-r^2 / 2 m_q)$ at each $r^2$.

    Args:
        squares: $r^2$, of any shape.
        weights: w, `(nodes,)`, which pass no gradient.
        multipliers: m, `(nodes,)`, which pass no gradient.
    """
    value: Tensor = _At.apply(squares, weights, multipliers)[0]
    return value


class _Between(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        delta: Tensor, variance: Tensor, weights: Tensor, multipliers: Tensor, less_one: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The sum, and of its terms $m / (m + V)$, `(..., d, nodes)`, and values of nodes."""
        if less_one:
            # log1p and expm1, which PyTorch computes a number at a time on CPUs, by what rounding
            # takes from 1 + V / m, and from the exponential.
            ratio = variance[..., None] / multipliers
            whole = ratio + 1
            shrunk = whole.reciprocal()
            logs = (whole.log() + (ratio - (whole - 1)) * shrunk).sum(-2)
            squares = (delta.square()[..., None] * shrunk).sum(-2) / multipliers
            exponents = (-0.5 * (logs + squares)).clamp_min(-80)
            values = exponents.exp()
            less = (values - 1) + values * (exponents - values.log())
            return (weights * less).sum(-1), shrunk, weights * values
        shrunk = (variance[..., None] / multipliers).add_(1).reciprocal_()
        squares = (delta.square()[..., None] * shrunk).sum(-2) / multipliers
        nodes = weights * shrunk.prod(-2).sqrt() * torch.exp(-0.5 * squares)
        return nodes.sum(-1), shrunk, nodes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:4], *output[1:])
        ctx.less_one = inputs[4]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        delta, variance, weights, multipliers, shrunk, nodes = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            given = delta, variance, weights, multipliers, ctx.less_one
            _, shrunk, nodes = _Between.forward(*given)
        each = (grads[0][..., None] * nodes / multipliers)[..., None, :] * shrunk
        first = each.sum(-1)
        second = each.mul_(shrunk).div_(multipliers).sum(-1)
        by_variance = second.mul_(delta.square()).sub_(first).mul_(0.5)
        return first.mul_(delta).neg_(), by_variance, None, None, None


class _At(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(squares: Tensor, weights: Tensor, multipliers: Tensor) -> tuple[Tensor, Tensor]:
        """The sum and its derivative, by one exponential a node."""
        nodes = torch.exp(squares[..., None] * (-0.5 / multipliers))
        both = nodes @ torch.stack([weights, -0.5 * weights / multipliers], 1)
        value, slope = both.unbind(-1)
        return value, slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        squares, weights, multipliers, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            slope = mixture_at(squares, -0.5 * weights / multipliers, multipliers)
        return grads[0] * slope, None, None
