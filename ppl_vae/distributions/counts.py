"""Distributions of counts."""

import pyro.distributions as dist
from torch import Tensor

__all__ = ["NegativeBinomial", "ZeroInflatedNegativeBinomial"]


class NegativeBinomial(dist.NegativeBinomial):
    r"""A negative binomial distribution whose density is computed in double precision.

    In :math:`\log \Gamma(r + x) - \log \Gamma(r) - \log x!` each term is about r log r or x log x,
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
        logits: the logits :math:`\log \mu - \log r`, with :math:`\mu` the mean.
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

    @property
    def variance(self) -> Tensor:
        base = self.base_dist
        return (1 - self.gate) * (base.variance + self.gate * base.mean.square())
