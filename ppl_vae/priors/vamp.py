"""The variational mixture of posteriors."""

from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.arguments import chosen, whole
from ppl_vae.distributions import DiagonalNormalMixture, Mixture
from ppl_vae.guides.encoder import Encoder
from ppl_vae.guides.moments import running_moments
from ppl_vae.priors.prior import Prior

__all__ = ["VampPrior"]


class VampPrior(Prior):
    r"""Variational mixture of posteriors: the encoder at learned pseudo-inputs.

    $$p(z) = \frac1K \sum_{k=1}^K q(z \mid u_k)$$

    It is built after the encoder and shares its tensors, which stay the encoder's to save and to
    train: only the pseudo-inputs are the prior's own.

    Args:
        encoder: q(z | x), with a density if the objective asks for the prior's.
        components: number of pseudo-inputs K.
        link: `"sigmoid"` for pseudo-inputs inside (0, 1), where images live, or `"identity"`.

    Raises:
        ValueError: if there is no component, or the encoder is of several layers.

    References:
        Tomczak and Welling (2018), VAE with a VampPrior, arXiv:1705.07120.

    Example:
        >>> from ppl_vae.guides import MeanFieldNormal
        >>> encoder = MeanFieldNormal((1, 28, 28), 10)
        >>> prior = VampPrior(encoder, components=500)
        >>> prior().event_shape
        torch.Size([10])
    """

    def __init__(
        self,
        encoder: Encoder,
        components: int = 100,
        link: Literal["identity", "sigmoid"] = "sigmoid",
    ) -> None:
        if not isinstance(encoder, Encoder):
            raise ValueError(
                f"VampPrior mixes the q(z | x) of an Encoder, which {type(encoder).__name__} is "
                "not: use GaussianMixture"
            )
        super().__init__(encoder.dim)
        whole(self, components=components)
        chosen(self, ("sigmoid", "identity"), link=link)
        self.components = components
        self.link = link
        # In a tuple, so that PyTorch does not take the encoder for a part of the prior.
        self._shared = (encoder,)
        self.raw_inputs = nn.Parameter(torch.randn(components, *encoder.size))

    @property
    def encoder(self) -> Encoder:
        """The encoder whose tensors the prior shares."""
        return self._shared[0]

    @property
    def pseudo_inputs(self) -> Tensor:
        """The u_k, of shape (K, *size)."""
        return self.raw_inputs.sigmoid() if self.link == "sigmoid" else self.raw_inputs

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Starts the pseudo-inputs at K rows of data, of shape (n, *size) with n >= K.

        Raises:
            ValueError: if there are fewer rows than components.
        """
        if len(x) < self.components:
            raise ValueError(f"{self.components} pseudo-inputs need as many data, got {len(x)}")
        rows = x[torch.randperm(len(x), device=x.device)[: self.components]].to(self.raw_inputs)
        self.raw_inputs.copy_(rows.clamp(0.01, 0.99).logit() if self.link == "sigmoid" else rows)

    def forward(self) -> dist.TorchDistribution:
        with running_moments(self.encoder):
            components = self.encoder(self.pseudo_inputs)
        weights = dist.Categorical(logits=self.raw_inputs.new_zeros(self.components))
        base = getattr(components, "base_dist", None)
        normal = isinstance(base, dist.Normal) and components.event_dim == 1
        return (DiagonalNormalMixture if normal else Mixture)(weights, components)
