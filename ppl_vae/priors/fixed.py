"""Priors with nothing to learn."""

import math

import pyro.distributions as dist
from torch import Tensor

from ppl_vae import distributions
from ppl_vae.arguments import above_zero, whole
from ppl_vae.priors.prior import Prior

__all__ = ["Laplace", "RelaxedOneHotCategorical", "StandardNormal", "StudentT", "Uniform"]


class StandardNormal(Prior):
    r"""Standard normal prior $\mathcal N(0, I)$.

    Args:
        dim: dimension d of z.

    Example:
        >>> import torch
        >>> StandardNormal(2)().log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.constant("loc", 0.0)
        self.constant("scale", 1.0)

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class Uniform(Prior):
    r"""Uniform prior on the box $[a, b]^d$.

    An encoder that can leave the box has an infinite KL against it: pair it with
    `ppl_vae.guides.UniformBox`, or with an objective that evaluates no KL (`alpha=1`).

    Args:
        dim: dimension d of z.
        low: lower end a.
        high: upper end b.

    Raises:
        ValueError: if low is not below high, or one is not finite.
    """

    low: Tensor
    high: Tensor

    def __init__(self, dim: int, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(dim)
        if not -math.inf < low < high < math.inf:
            raise ValueError(
                f"low must be below high and both finite, got low={low:g}, high={high:g}"
            )
        self.constant("low", low)
        self.constant("high", high)

    def forward(self) -> dist.TorchDistribution:
        return distributions.Uniform(self.low, self.high).to_event(1)


class Laplace(Prior):
    r"""Laplace prior, which favours codes with few large coordinates.

    $$p(z) = \prod_{j=1}^d \frac{1}{2 b} e^{-|z_j| / b}$$

    Args:
        dim: dimension d of z.
        scale: the b; the standard deviation is $\sqrt 2 b$.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, dim: int, scale: float = 1.0) -> None:
        super().__init__(dim)
        above_zero(self, scale=scale)
        self.constant("loc", 0.0)
        self.constant("scale", scale)

    def forward(self) -> dist.TorchDistribution:
        return dist.Laplace(self.loc, self.scale).to_event(1)


class StudentT(Prior):
    r"""Student-t prior with independent coordinates, which forgives outlying codes.

    $$p(z) \propto \prod_{j=1}^d
      \Big(1 + \frac{z_j^2}{\nu s^2}\Big)^{-(\nu + 1) / 2}$$

    Args:
        dim: dimension d of z.
        df: degrees of freedom $\nu$; the variance is finite above 2.
        scale: the s.
    """

    df: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(self, dim: int, df: float = 5.0, scale: float = 1.0) -> None:
        super().__init__(dim)
        above_zero(self, df=df, scale=scale)
        self.constant("df", df)
        self.constant("loc", 0.0)
        self.constant("scale", scale)

    def forward(self) -> dist.TorchDistribution:
        return dist.StudentT(self.df, self.loc, self.scale).to_event(1)


class RelaxedOneHotCategorical(Prior):
    r"""Relaxed one-hot prior on the simplex: nearly one of d classes, all equally likely.

    $$z = \operatorname{softmax}(g / \tau), \qquad g_j \sim \operatorname{Gumbel}(0, 1)$$

    The density is with respect to the first d - 1 coordinates. Pair it with
    `ppl_vae.guides.RelaxedCategorical`.

    Args:
        dim: number of classes d, at least 2.
        temperature: the $\tau$; at 0 the draws would be one-hot. With
            $\tau \le 1 / (d - 1)$ the density has no mode inside the simplex.

    Raises:
        ValueError: if there are fewer than 2 classes.

    References:
        Maddison, Mnih and Teh (2017), The concrete distribution, arXiv:1611.00712.
        Jang, Gu and Poole (2017), Categorical reparameterization with Gumbel-softmax,
        arXiv:1611.01144.
    """

    logits: Tensor
    temperature: Tensor

    def __init__(self, dim: int, temperature: float = 0.5) -> None:
        whole(self, 2, dim=dim)  # of one class, the simplex is a point
        super().__init__(dim)
        above_zero(self, temperature=temperature)
        self.constant("logits", 0.0)
        self.constant("temperature", temperature, ())

    def forward(self) -> dist.TorchDistribution:
        return distributions.RelaxedOneHotCategorical(self.temperature, logits=self.logits)
