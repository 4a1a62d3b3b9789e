"""Distributions of counts."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["NegativeBinomial", "ZeroInflatedNegativeBinomial"]


class NegativeBinomial(dist.NegativeBinomial):
    r"""A negative binomial distribution whose density is computed in double precision.

    In $\log \Gamma(r + x) - \log \Gamma(r) - \log x!$ each term is about r log r or x log x,
    of which single precision leaves an error of a whole nat where r or x is a million.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits
        wide = dist.NegativeBinomial(
            self.total_count.double(), logits=logits.double(), validate_args=False
        )
        return wide.log_prob(value.double()).to(logits.dtype)


class ZeroInflatedNegativeBinomial(dist.ZeroInflatedNegativeBinomial):
    r"""A mixture of a negative binomial distribution and the number 0.

    Pyro's refuses logits whose sigmoid is rounded to 1, in single precision any from 17 on.

    Args:
        total_count: the number r, 0 or more.
        logits: the logits $\log \mu - \log r$, with $\mu$ the mean.
        gate_logits: the logits of the weight of 0.
        validate_args: whether parameters and values are checked.
    """

    arg_constraints = dist.ZeroInflatedDistribution.arg_constraints

    def __init__(
        self,
        total_count: Tensor,
        logits: Tensor,
        gate_logits: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        base = NegativeBinomial(total_count, logits=logits, validate_args=validate_args)
        dist.ZeroInflatedDistribution.__init__(
            self, base, gate_logits=gate_logits, validate_args=validate_args
        )

    def expand(
        self, batch_shape: Sequence[int], _instance: Any = None
    ) -> "ZeroInflatedNegativeBinomial":
        # Pyro's refuses once the gate was looked at, as by a draw, and so stands for both.
        new = self._get_checked_instance(ZeroInflatedNegativeBinomial, _instance)
        batch = torch.Size(batch_shape)
        dist.ZeroInflatedDistribution.__init__(
            new,
            self.base_dist.expand(batch),
            gate_logits=self.gate_logits.expand(batch),
            validate_args=False,
        )
        new._validate_args = self._validate_args
        return new

    @property
    def variance(self) -> Tensor:
        base = self.base_dist
        return (1 - self.gate) * (base.variance + self.gate * base.mean.square())
