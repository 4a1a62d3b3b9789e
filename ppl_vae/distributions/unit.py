"""Distributions on an interval, with care at its ends."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Bernoulli", "ContinuousBernoulli", "Uniform"]


class Bernoulli(dist.Bernoulli):
    """A Bernoulli distribution that also scores values between 0 and 1, by cross-entropy."""

    support = constraints.unit_interval


class ContinuousBernoulli(dist.ContinuousBernoulli):
    r"""A continuous Bernoulli distribution with a normaliser computed from the logits.

    .. math:: \log C(\ell) = \log \frac{\ell}{\tanh(\ell / 2)}

    PyTorch computes it from clamped probabilities, which in single precision stops growing at
    logits of 16: the density integrates to one half at 32.
    """

    def _cont_bern_log_norm(self) -> Tensor:
        half = self.logits.abs() / 2
        small = half < 0.03
        safe = torch.where(small, torch.ones_like(half), half)
        # log(t / tanh t) = t^2 / 3 - 7 t^4 / 90 + O(t^6)
        series = half.square() * (1 / 3 - half.square() * (7 / 90))
        return math.log(2.0) + torch.where(small, series, safe.log() - safe.tanh().log())


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
