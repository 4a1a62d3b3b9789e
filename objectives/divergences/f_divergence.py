r"""What an adversary maximises: lower bounds of divergences between the prior and q(z).

For a convex f with f(1) = 0 and conjugate $f^*$, every function T gives

$$D_f = \mathrm{E}_{q}\, f\!\left(\frac{p(z)}{q(z)}\right)
  \ge \mathrm{E}_{p}\, T(z) - \mathrm{E}_{q}\, f^*(T(z)),$$

with equality at $T = f'(p / q)$. The critic's output $\ell(z)$, its logit, stands for
$\log p(z) / q(z)$ whatever f is, so that $T = f'(e^{\ell})$ is in the domain of $f^*$ by itself
and a term known of the ratio, such as log p(z), can be added to the logit.

References:
    Nguyen, Wainwright and Jordan (2010), Estimating divergence functionals, arXiv:0809.0853.
    Nowozin, Cseke and Tomioka (2016), f-GAN, arXiv:1606.00709.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = [
    "KL",
    "Bound",
    "ChiSquared",
    "Hellinger",
    "JensenShannon",
    "ReverseKL",
]

_LOG_2 = math.log(2.0)

Critic = Callable[[Tensor], Tensor]
"""A critic's logits `(n,)` at points `(n, d)`."""


class Bound(ABC):
    r"""A bound $\mathrm{E}_p\, a(\ell) - \mathrm{E}_q\, b(\ell)$ in the critic's logits.

    A subclass writes `on_prior`, the a, and `on_codes`, the b. For an f-divergence they are
    $f'(e^{\ell})$ and $f^*(f'(e^{\ell})) = e^{\ell} f'(e^{\ell}) - f(e^{\ell})$.

    Attributes:
        is_ratio: whether the logit stands for log p(z) / q(z).
        non_saturating: whether the encoder descends the non-saturating loss by default.
    """

    is_ratio: bool = True
    non_saturating: bool = False

    @abstractmethod
    def on_prior(self, logit: Tensor) -> Tensor:
        """a, elementwise."""

    @abstractmethod
    def on_codes(self, logit: Tensor) -> Tensor:
        """b, elementwise."""

    def of_unit_shift(self) -> float:
        r"""What the bound comes to between $N(m, I)$ and $N(0, I)$ at $\lVert m \rVert = 1$.

        The best critic's logit, $\log p / q$, is $N(1/2, 1)$ over the prior and $N(-1/2, 1)$ over
        q, whatever d.
        """
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        normal = torch.from_numpy(nodes)
        a, b = self.on_prior(normal + 0.5), self.on_codes(normal - 0.5)
        return float((torch.from_numpy(weights) * (a - b)).sum()) / math.sqrt(2 * math.pi)

    def penalty(self, critic: Critic, draws: Tensor, codes: Tensor, weights: Tensor) -> Tensor:
        """What is added to the critic's loss, from detached prior draws and codes."""
        return codes.new_zeros(())


@dataclass(frozen=True)
class JensenShannon(Bound):
    r"""The Jensen-Shannon divergence, at most log 2 nats.

    $$\tfrac12 \mathrm{KL}(p \Vert m) + \tfrac12 \mathrm{KL}(q \Vert m), \quad
      m = \tfrac12 (p + q); \qquad f(u) = \tfrac12 u \log u - \tfrac12 (u + 1)
      \log \tfrac{u + 1}{2}$$

    With $\sigma(\ell)$ the probability that z is a prior draw, the bound is
    $\tfrac12 (\mathrm{E}_p \log \sigma(\ell) + \mathrm{E}_q \log (1 - \sigma(\ell))) + \log 2$,
    so the adversarial game's own value is twice this less log 4.
    """

    non_saturating = True

    def on_prior(self, logit: Tensor) -> Tensor:
        return 0.5 * (logsigmoid(logit) + _LOG_2)

    def on_codes(self, logit: Tensor) -> Tensor:
        return -0.5 * (logsigmoid(-logit) + _LOG_2)


@dataclass(frozen=True)
class KL(Bound):
    r"""$\mathrm{KL}(p \Vert q)$ of the prior from q(z), in nats; $f(u) = u \log u$."""

    def on_prior(self, logit: Tensor) -> Tensor:
        return 1 + logit

    def on_codes(self, logit: Tensor) -> Tensor:
        return logit.exp()


@dataclass(frozen=True)
class ReverseKL(Bound):
    r"""$\mathrm{KL}(q \Vert p)$ of q(z) from the prior, in nats; $f(u) = -\log u$."""

    def on_prior(self, logit: Tensor) -> Tensor:
        return -torch.exp(-logit)

    def on_codes(self, logit: Tensor) -> Tensor:
        return logit - 1


@dataclass(frozen=True)
class ChiSquared(Bound):
    r"""Pearson's $\int (p - q)^2 / q$; $f(u) = (u - 1)^2$.

    It is infinite where the prior's tails outweigh those of q(z) (for Gaussians, where a variance
    of q is at most half the prior's).
    """

    def on_prior(self, logit: Tensor) -> Tensor:
        return 2 * torch.expm1(logit)

    def on_codes(self, logit: Tensor) -> Tensor:
        return torch.expm1(2 * logit)


@dataclass(frozen=True)
class Hellinger(Bound):
    r"""The squared Hellinger distance $\int (\sqrt p - \sqrt q)^2$, at most 2.

    $f(u) = (\sqrt u - 1)^2$; some texts halve it.
    """

    def on_prior(self, logit: Tensor) -> Tensor:
        return -torch.expm1(-logit / 2)

    def on_codes(self, logit: Tensor) -> Tensor:
        return torch.expm1(logit / 2)
