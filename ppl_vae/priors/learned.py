"""Normal priors and their mixtures, with parameters to learn."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.arguments import above_zero, whole
from ppl_vae.bodies.body import inverse_softplus, positive
from ppl_vae.distributions import DiagonalNormalMixture
from ppl_vae.priors.prior import Prior

__all__ = ["DiagonalNormal", "GaussianMixture"]


class DiagonalNormal(Prior):
    r"""Normal prior with a learned mean and learned standard deviations.

    $$p(z) = \prod_{j=1}^d \mathcal N(z_j \mid \mu_j, \sigma_j^2)$$

    It starts as the standard normal.

    Args:
        dim: dimension d of z.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.loc = nn.Parameter(torch.zeros(dim))
        self.raw_scale = nn.Parameter(torch.zeros(dim))

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, positive(self.raw_scale, 1.0)).to_event(1)


class GaussianMixture(Prior):
    r"""Mixture of normals with diagonal covariances.

    $$p(z) = \sum_{k=1}^K \pi_k \prod_{j=1}^d \mathcal N(z_j \mid \mu_{kj}, \sigma_{kj}^2)$$

    Before training the weights are equal, the scales all the same, and the means drawn from
    $\mathcal N(0, \mathrm{spread}^2 I)$.

    Args:
        dim: dimension d of z.
        components: number of components K.
        learnable: whether weights, means and scales are learned; if not, they keep their
            values.
        spread: standard deviation of the means around the origin.
        scale: standard deviation of each component.

    Raises:
        ValueError: if there is no component.
    """

    logits: Tensor
    loc: Tensor
    raw_scale: Tensor

    def __init__(
        self,
        dim: int,
        components: int = 10,
        learnable: bool = True,
        spread: float = 1.0,
        scale: float = 0.5,
    ) -> None:
        super().__init__(dim)
        whole(self, components=components)
        above_zero(self, spread=spread, scale=scale)
        self.scale = scale
        values = {
            "logits": torch.zeros(components),
            "loc": spread * torch.randn(components, dim),
            "raw_scale": torch.zeros(components, dim),
        }
        for name, value in values.items():
            if learnable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    @torch.no_grad()
    def initialise(self, z: Tensor, seed: int = 0) -> None:
        """Starts the mixture at its maximum likelihood for codes, by expectation maximisation.

        Args:
            z: codes `(n, d)`, n no less than the components.
            seed: of the start.

        Raises:
            ValueError: if there are fewer codes than components.
        """
        from sklearn.mixture import GaussianMixture as Mixture

        count = len(self.logits)
        if len(z) < count:
            raise ValueError(f"{count} components need as many codes, got {len(z)}")
        found = Mixture(count, covariance_type="diag", random_state=seed)
        found.fit(z.detach().double().cpu().numpy())
        scale = torch.as_tensor(found.covariances_).sqrt().to(self.raw_scale)
        self.logits.copy_(torch.as_tensor(found.weights_).log())
        self.loc.copy_(torch.as_tensor(found.means_))
        # the inverse of `positive`
        self.raw_scale.copy_(scale + (-torch.expm1(-scale)).log() - inverse_softplus(self.scale))

    def forward(self) -> dist.TorchDistribution:
        components = dist.Normal(self.loc, positive(self.raw_scale, self.scale)).to_event(1)
        return DiagonalNormalMixture(dist.Categorical(logits=self.logits), components)
