"""An encoder without a density."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae import distributions
from ppl_vae.arguments import whole
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body
from ppl_vae.guides.encoder import Encoder

__all__ = ["Implicit"]


class Implicit(Encoder):
    r"""Encoder with noise fed to the network: it can be drawn from and has no density.

    $$z = g(h(x), \varepsilon), \qquad \varepsilon \sim \mathcal N(0, I)$$

    Only objectives that need no density accept it: `alpha=1` with a divergence of samples such
    as MMD, WAE. Its distribution's `log_prob` refuses.

    Args:
        size: event shape of x.
        dim: dimension d of z.
        body: factory of the network h.
        features: how many numbers h returns.
        noise: dimension of the noise.
        hidden: widths of the hidden layers of g.

    References:
        Makhzani et al. (2015), Adversarial autoencoders, arXiv:1511.05644.
        Mescheder, Nowozin and Geiger (2017), Adversarial variational Bayes, arXiv:1701.04722.
    """

    def __init__(
        self,
        size: Sequence[int],
        dim: int,
        body: Body = MLP,
        features: int = 128,
        noise: int = 16,
        hidden: Sequence[int] = (128,),
    ) -> None:
        whole(self, features=features, noise=noise)
        super().__init__(size, dim, body, outputs=features)
        self.noise = noise
        self.generator = MLP((features + noise,), (dim,), hidden)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        return distributions.Implicit(self._generate, self.features(x), self.noise, self.dim)

    def _generate(self, h: Tensor, noise: Tensor) -> Tensor:
        inputs = torch.cat([h, noise], -1)
        z: Tensor = self.generator(inputs.flatten(0, -2) if inputs.dim() > 1 else inputs[None])
        return z.reshape(*inputs.shape[:-1], self.dim)
