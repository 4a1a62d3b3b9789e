"""A pair with several layers of codes."""

from collections.abc import Sequence
from itertools import pairwise

import pyro
from torch import Tensor, nn

from ppl_vae.guides.ladder import Ladder, precision_weighted
from ppl_vae.likelihoods import Likelihood
from ppl_vae.priors import ConditionalNormal, Prior
from ppl_vae.registration import register
from ppl_vae.vae import part_name

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(nn.Module):
    r"""A variational auto-encoder with L layers of codes, and a ladder for its guide.

    .. math:: p(z_L) \Big(\prod_{l=1}^{L-1} p(z_l \mid z_{l+1})\Big) p(x \mid z_1), \qquad
              q(z_L \mid x) \prod_{l=1}^{L-1} q(z_l \mid x, z_{l+1})

    The guide draws from the top down, each layer from the product of what the data say,
    :math:`\hat q_l(z_l \mid x)`, and of the prior given the layer above. Both halves being in the
    model's order, every layer's KL is in closed form.

    The latent sites are `z1`, next to the data, to `zL`; the observed one is `x`, the plate
    around all `data`. A divergence compares the joint of the layers by default, each in the units
    of its prior given the layer above; `sites=` picks some.

    Args:
        priors: the layers' priors from the data upwards: `ConditionalNormal` of the layer above,
            and at the top any prior over real vectors.
        likelihood: p(x | z1).
        ladder: what x says of each layer.

    Raises:
        ValueError: if the parts disagree about the layers or the shape of x.

    References:
        Sønderby, Raiko, Maaløe, Sønderby, Winther (2016): Ladder variational autoencoders.
        arXiv:1602.02282.

    Example:
        >>> import torch
        >>> from ppl_vae.guides import Ladder
        >>> from ppl_vae.likelihoods import Bernoulli
        >>> from ppl_vae.objectives import BetaVAE
        >>> from ppl_vae.priors import ConditionalNormal, StandardNormal
        >>> size = (1, 8, 8)
        >>> priors = [ConditionalNormal(10, (2,)), StandardNormal(2)]
        >>> vae = HierarchicalVAE(priors, Bernoulli(10, size), Ladder(size, (10, 2)))
        >>> loss = BetaVAE()(vae.model, vae.guide)(torch.rand(100, *size))
    """

    def __init__(
        self, priors: Sequence[Prior | ConditionalNormal], likelihood: Likelihood, ladder: Ladder
    ) -> None:
        super().__init__()
        dims = tuple(prior.dim for prior in priors)
        if len(dims) < 2:
            raise ValueError(f"two layers of codes or more are needed, got {len(dims)}: use VAE")
        for lower, upper in pairwise(priors):
            if tuple(getattr(lower, "size", ())) != (upper.dim,):
                raise ValueError(
                    f"{part_name(lower)} over {lower.dim} dimensions must be conditioned on the "
                    f"{upper.dim} of {part_name(upper)}: use ConditionalNormal({lower.dim}, "
                    f"({upper.dim},))"
                )
        if not isinstance(priors[-1], Prior):
            raise ValueError(f"the top layer's prior is conditioned: {part_name(priors[-1])}")
        if likelihood.dim != dims[0]:
            raise ValueError(
                f"{part_name(priors[0])} is over {dims[0]} dimensions, {part_name(likelihood)} "
                f"over {likelihood.dim}"
            )
        if ladder.dims != dims:
            raise ValueError(f"the priors are over {dims} dimensions, Ladder over {ladder.dims}")
        if ladder.size != likelihood.size:
            raise ValueError(
                f"{part_name(likelihood)} is over x of shape {tuple(likelihood.size)}, Ladder "
                f"reads {tuple(ladder.size)}"
            )
        self.priors = nn.ModuleList(priors)
        self.likelihood = likelihood
        self.ladder = ladder

    def model(self, x: Tensor) -> Tensor:
        """Draws the layers from the top down and observes x, of shape (n, *size); returns x."""
        register(self)
        *lower, top = self.priors
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z{len(self.priors)}", top())
            for layer in range(len(lower), 0, -1):
                z = pyro.sample(f"z{layer}", lower[layer - 1](z))
            return pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> tuple[Tensor, ...]:
        """Draws the layers at x, of shape (n, *size); returns them from the data upwards."""
        register(self)
        *messages, top = self.ladder(x)
        with pyro.plate("data", len(x)):
            codes = [pyro.sample(f"z{len(self.priors)}", top)]
            for layer in range(len(messages), 0, -1):
                prior = self.priors[layer - 1](codes[0])
                q = precision_weighted(messages[layer - 1], prior)
                codes.insert(0, pyro.sample(f"z{layer}", q))
        return tuple(codes)
