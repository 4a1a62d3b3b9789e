"""Likelihoods of real data: a location with noise around it, or with none."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.arguments import chosen
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body, positive
from ppl_vae.likelihoods.likelihood import Likelihood, Link, linked

__all__ = ["Deterministic", "Laplace", "Normal"]

Noise = Literal["fixed", "shared", "pixel", "network"]


class _LocationScale(Likelihood):
    """A location from the network, and a scale that is given or learned."""

    def __init__(
        self,
        dim: int,
        size: Sequence[int],
        body: Body = MLP,
        scale: float = 1.0,
        noise: Noise = "fixed",
        floor: float = 0.005,
        link: Link = "identity",
    ) -> None:
        super().__init__(dim, size, body, outputs=2 if noise == "network" else 1)
        least = 0.0 if noise == "fixed" else floor
        if not least < scale < math.inf:
            raise ValueError(f"scale must be above {least:g} and finite, got {scale:g}")
        chosen(self, get_args(Noise), noise=noise)
        chosen(self, get_args(Link), link=link)
        self.scale, self.noise, self.floor = scale, noise, floor
        self.link: Link = link
        if noise in ("shared", "pixel"):
            self.raw_scale = nn.Parameter(torch.zeros(() if noise == "shared" else self.size))

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        loc, *rest = self.features(z)
        if self.noise == "fixed":
            scale = torch.full_like(loc, self.scale)
        else:
            raw = rest[0] if rest else self.raw_scale
            scale = positive(raw, self.scale, self.floor).expand_as(loc)
        return self.event(self.family(linked(loc, self.link), scale))

    @abstractmethod
    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """The distribution of the elements."""


class Normal(_LocationScale):
    r"""Independent normal elements.

    $$\log p(x \mid z) = -\frac12 \sum_i \Big( \frac{(x_i - \mu_i(z))^2}{\sigma_i^2}
      + \log 2 \pi \sigma_i^2 \Big)$$

    Args:
        dim: dimension d of z.
        size: event shape of x.
        body: factory of the network.
        scale: standard deviation, in units of x; where it is learned, its start value.
        noise: `"fixed"`, the given scale; `"shared"`, one learned number; `"pixel"`, one learned
            number for each element of x; `"network"`, a function of z and the element.
        floor: smallest learned scale. Without it the density of data that the decoder fits
            exactly has no upper bound.
        link: `"identity"`, or `"sigmoid"` for a mean inside (0, 1).

    Raises:
        ValueError: if the scale does not lie above its floor.

    Example:
        >>> import torch
        >>> p = Normal(2, (3,), noise="shared")(torch.zeros(5, 2))
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, scale)


class Laplace(_LocationScale):
    r"""Independent Laplace elements: absolute in place of squared errors.

    $$\log p(x \mid z) = -\sum_i \Big( \frac{|x_i - \mu_i(z)|}{b_i} + \log 2 b_i \Big)$$

    Args:
        dim: dimension d of z.
        size: event shape of x.
        body: factory of the network.
        scale: the b, in units of x; where it is learned, its start value.
        noise: as `Normal`'s.
        floor: smallest learned scale.
        link: `"identity"`, or `"sigmoid"` for a median inside (0, 1).

    Raises:
        ValueError: if the scale does not lie above its floor.
    """

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale)


class Deterministic(Likelihood):
    r"""A decoder without noise: the point mass $\delta(x - G(z))$.

    It has no density: only objectives that put a cost $c(x, G(z))$ in place of the
    log-likelihood can train it (WAE). They read G(z) as the distribution's `mean`.

    Args:
        dim: dimension d of z.
        size: event shape of x.
        body: factory of the network G.
        link: `"identity"`, or `"sigmoid"` for values inside (0, 1).
    """

    def __init__(
        self, dim: int, size: Sequence[int], body: Body = MLP, link: Link = "identity"
    ) -> None:
        super().__init__(dim, size, body)
        chosen(self, get_args(Link), link=link)
        self.link: Link = link

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        (value,) = self.features(z)
        return dist.Delta(linked(value, self.link), event_dim=len(self.size))
