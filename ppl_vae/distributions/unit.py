"""Distributions on an interval, with care at its ends."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.distributions.quadrature import gauss_legendre

__all__ = ["Bernoulli", "ContinuousBernoulli", "Uniform"]

NODES = 8
"""Gauss-Legendre nodes of the integrals over [0, 1] at logits up to 1. The integrand with the
nearest poles is analytic at a distance of pi from the interval, so their error is 13^-16."""


class Bernoulli(dist.Bernoulli):
    """A Bernoulli distribution that also scores values between 0 and 1, by cross-entropy."""

    support = constraints.unit_interval

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The log-density by element, $x \ell - \log(1 + e^\ell)$ in nats.

        Without gradients the logarithm is taken of $1 + e^{-\lvert \ell \rvert}$ as it stands: a
        processor's vector units have `log` and no `log1p`, so that this takes a fifth of the time,
        and an absolute error of the last digit of 1 is lost in any sum with other elements.
        """
        if torch.is_grad_enabled() and (self.logits.requires_grad or value.requires_grad):
            return super().log_prob(value)  # type: ignore[no-any-return]
        if self._validate_args:
            self._validate_sample(value)
        tail = self.logits.abs().neg_().exp_().add_(1).log_()
        return (value * self.logits).sub_(tail.add_(self.logits.clamp_min(0)))


class ContinuousBernoulli(dist.ContinuousBernoulli):
    r"""A continuous Bernoulli distribution, all of it computed from the logits.

    $$p(x) = C(\ell) \, \pi^x (1 - \pi)^{1 - x}
      = \frac{\ell \, e^{\ell x}}{e^\ell - 1}, \qquad
      C(\ell) = \frac{\ell}{\tanh(\ell / 2)}, \quad \pi = \frac{1}{1 + e^{-\ell}}$$

    PyTorch computes it from clamped probabilities, which in single precision stop growing at
    logits of 16: the density integrates to one half at 32, and the mean stands still. What
    cancels around 0 is an integral over [0, 1] here for $|\ell| \le 1$, taken by quadrature
    that is exact to rounding, and a closed form in $e^{-|\ell|}$ beyond.
    """

    def _cont_bern_log_norm(self) -> Tensor:
        half = self.logits.abs() / 2
        small = half < 0.03
        safe = torch.where(small, torch.ones_like(half), half)
        # log(t / tanh t) = t^2 / 3 - 7 t^4 / 90 + O(t^6)
        series = half.square() * (1 / 3 - half.square() * (7 / 90))
        return math.log(2.0) + torch.where(small, series, safe.log() - safe.tanh().log())

    @property
    def mean(self) -> Tensor:
        far, near, a = self._parts()
        x, weight = _tilted(near)
        close = (weight * x).sum(-1) / weight.sum(-1)
        return torch.where(far, self._turned(1 / a + (-a).exp() / torch.expm1(-a)), close)

    @property
    def variance(self) -> Tensor:
        far, near, a = self._parts()
        x, weight = _tilted(near)
        weight = weight / weight.sum(-1, keepdim=True)
        centred = x - (weight * x).sum(-1, keepdim=True)
        beyond = 1 / a.square() - (-a).exp() / torch.expm1(-a).square()
        return torch.where(far, beyond, (weight * centred.square()).sum(-1))

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        far, near, a = self._parts()
        v = value.clamp(0, 1)
        # the integral of e^(l x) over [0, v] is v times that of e^(l v x) over [0, 1]
        close = v * _tilted(near * v)[1].sum(-1) / _tilted(near)[1].sum(-1)
        beyond = torch.expm1(-a * v) / torch.expm1(-a)
        beyond = beyond * (torch.where(self.logits > 0, a, 0.0) * (v - 1)).exp()
        return torch.where(far, beyond, close)

    def icdf(self, value: Tensor) -> Tensor:
        far, near, a = self._parts()
        x, weight = gauss_legendre(NODES, near.dtype, near.device)
        # log(1 - u + u e^l) / l is the mean over x of the logistic function at logit(u) + l x
        u = value.unsqueeze(-1)
        close = (weight * u / (u + (1 - u) * (-near.unsqueeze(-1) * x).exp())).sum(-1)
        # 1 - u + u e^l by its two terms: neither end of u is lost
        up = self.logits > 0
        share, rest = torch.where(up, 1 - value, value), torch.where(up, value, 1 - value)
        t = -torch.logaddexp(rest.log(), share.log() - a) / a
        return torch.where(far, self._turned(t), close).clamp(0, 1)

    def entropy(self) -> Tensor:
        a = self.logits.abs()
        return a * self._turned(self.mean) + F.softplus(-a) - self._cont_bern_log_norm()

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Whether |l| > 1; l where it is not, 0 elsewhere; and |l| where it is, 1 elsewhere."""
        far = self.logits.abs() > 1
        near = torch.where(far, 0.0, self.logits)
        return far, near, torch.where(far, self.logits.abs(), 1.0)

    def _turned(self, x: Tensor) -> Tensor:
        """x as the distance from the end where the density is highest, and back."""
        return torch.where(self.logits > 0, 1 - x, x)


def _tilted(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes x on [0, 1], and the weights of integrals against e^(l x), (*logits.shape, NODES)."""
    x, weight = gauss_legendre(NODES, logits.dtype, logits.device)
    return x, weight * (logits.unsqueeze(-1) * x).exp()


class Uniform(dist.Uniform):
    """A uniform distribution whose upper end belongs to it.

    In floating point a draw can fall on the upper end, in a narrow interval it often does;
    PyTorch then gives it the density 0, and training meets an infinity.
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.minimum(super().rsample(sample_shape), self.high)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        inside = (self.low <= value) & (value <= self.high)
        return torch.where(inside, -(self.high - self.low).log(), -math.inf)
