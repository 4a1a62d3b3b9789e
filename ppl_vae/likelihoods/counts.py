"""Likelihoods of counts."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import distributions
from ppl_vae.arguments import above_zero, chosen
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body, positive
from ppl_vae.likelihoods.likelihood import Likelihood

__all__ = ["NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial"]

Dispersion = Literal["shared", "element", "network"]


class Poisson(Likelihood):
    r"""Independent Poisson elements.

    $$\log p(x \mid z) = \sum_i x_i \log \mu_i(z) - \mu_i(z) - \log x_i!$$

    Args:
        dim: dimension d of z.
        size: event shape of x.
        body: factory of the network.
        mean: the mean $\mu$ where the network's output is zero, so about the one before
            training; best near the data's.
    """

    def __init__(self, dim: int, size: Sequence[int], body: Body = MLP, mean: float = 1.0) -> None:
        super().__init__(dim, size, body)
        above_zero(self, mean=mean)
        self.mean = mean

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        (raw,) = self.features(z)
        return self.event(dist.Poisson(self.mean * positive(raw, 1.0)))


class NegativeBinomial(Likelihood):
    r"""Independent negative binomial elements: counts more variable than a Poisson's.

    $$p(x_i \mid z) = \frac{\Gamma(x_i + r_i)}{x_i! \, \Gamma(r_i)}
      \Big(\frac{r_i}{r_i + \mu_i}\Big)^{r_i}
      \Big(\frac{\mu_i}{r_i + \mu_i}\Big)^{x_i}, \qquad
      \operatorname{var} x_i = \mu_i + \frac{\mu_i^2}{r_i}$$

    Args:
        dim: dimension d of z.
        size: event shape of x.
        body: factory of the network.
        mean: the mean $\mu$ where the network's output is zero, so about the one before
            training; best near the data's.
        count: start value of r, the inverse of the dispersion; large is nearly Poisson.
        dispersion: what r is: `"shared"`, one learned number; `"element"`, one learned number
            for each element of x; `"network"`, a function of z and the element.

    References:
        Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics, Nature
        Methods 15, doi:10.1038/s41592-018-0229-2.
    """

    heads = 1

    def __init__(
        self,
        dim: int,
        size: Sequence[int],
        body: Body = MLP,
        mean: float = 1.0,
        count: float = 1.0,
        dispersion: Dispersion = "element",
    ) -> None:
        super().__init__(dim, size, body, outputs=self.heads + (dispersion == "network"))
        above_zero(self, mean=mean, count=count)
        chosen(self, get_args(Dispersion), dispersion=dispersion)
        self.mean, self.count, self.dispersion = mean, count, dispersion
        if dispersion != "network":
            shape = () if dispersion == "shared" else self.size
            self.raw_count = nn.Parameter(torch.zeros(shape))

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return self.event(distributions.NegativeBinomial(**self.parameters_at(self.features(z))))

    def parameters_at(self, features: tuple[Tensor, ...]) -> dict[str, Any]:
        """The number r and the logits log(mean) - log(r), from the outputs."""
        mean = self.mean * positive(features[0], 1.0)
        raw = features[-1] if self.dispersion == "network" else self.raw_count
        count = positive(raw, self.count, floor=1e-4).expand_as(mean)
        return {"total_count": count, "logits": mean.log() - count.log()}


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    r"""Independent negative binomial elements, some of them set to zero.

    $$p(x_i \mid z) = \rho_i(z) \, 1[x_i = 0]
      + (1 - \rho_i(z)) \, \mathrm{NB}(x_i \mid \mu_i(z), r_i)$$

    The network's second output for each element is the logit of $\rho$. The arguments are
    those of `NegativeBinomial`.
    """

    heads = 2

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        features = self.features(z)
        return self.event(
            distributions.ZeroInflatedNegativeBinomial(
                **self.parameters_at(features), gate_logits=features[1]
            )
        )
