"""A pair with several layers of codes."""

from collections.abc import Callable
from itertools import pairwise

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.guides.ladder import Ladder, precision_weighted
from ppl_vae.likelihoods import Likelihood
from ppl_vae.pairs.pair import Pair, check_parts, part_name
from ppl_vae.priors import ConditionalNormal, Prior
from ppl_vae.program.registration import register

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(Pair):
    r"""A variational auto-encoder with L layers of codes, and a ladder for its guide.

    $$p(z_L) \Big(\prod_{l=1}^{L-1} p(z_l \mid z_{l+1})\Big) p(x \mid z_1), \qquad
      q(z_L \mid x) \prod_{l=1}^{L-1} q(z_l \mid x, z_{l+1})$$

    The guide draws from the top down, each layer from the product of what the data say,
    $\hat q_l(z_l \mid x)$, and of the prior given the layer above. Both halves being in the
    model's order, every layer's KL is in closed form.

    The latent sites are `z1`, next to the data, to `zL`; the observed one is `x`, the plate
    around all `data`. A divergence compares the joint of the layers by default, each in the units
    of its prior given the layer above; `sites=` picks some.

    Args:
        prior: p(z_L), at the top: any prior over real vectors.
        likelihood: p(x | z1).
        encoder: what x says of each layer.
        lower: factory of p(z_l | z_{l+1}), called with d_l and the shape (d_{l+1},).

    Raises:
        ValueError: if the parts disagree about the layers or the shape of x.

    References:
        Sønderby, Raiko, Maaløe, Sønderby and Winther (2016), Ladder variational autoencoders,
        arXiv:1602.02282.

    Example:
        >>> import torch
        >>> from ppl_vae.guides import Ladder
        >>> from ppl_vae.likelihoods import Bernoulli
        >>> from ppl_vae.objectives import BetaVAE
        >>> from ppl_vae.priors import StandardNormal
        >>> size, dims = (1, 8, 8), (10, 2)
        >>> vae = HierarchicalVAE(StandardNormal(2), Bernoulli(10, size), Ladder(size, dims))
        >>> loss = BetaVAE()(vae.model, vae.guide)(torch.rand(100, *size))
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        encoder: Ladder,
        lower: Callable[[int, torch.Size], ConditionalNormal] = ConditionalNormal,
    ) -> None:
        super().__init__()
        check_parts(self, prior, likelihood, encoder)
        if not isinstance(encoder, Ladder):
            raise ValueError(
                f"HierarchicalVAE takes a Ladder for its encoder, not {part_name(encoder)}, and "
                "the dimensions of its layers, such as [16, 4]"
            )
        if not isinstance(prior, Prior):
            raise ValueError(f"the top layer's prior is conditioned: {part_name(prior)}")
        bottom, *_, top = encoder.dims
        for part, dim, layer in ((likelihood, bottom, "z1"), (prior, top, "the top layer")):
            if part.dim != dim:
                raise ValueError(
                    f"{part_name(part)} is over {part.dim} dimensions, and {layer} of Ladder over "
                    f"{encoder.dims} has {dim}"
                )
        if encoder.size != likelihood.size:
            raise ValueError(
                f"{part_name(likelihood)} is over x of shape {tuple(likelihood.size)}, Ladder "
                f"reads {tuple(encoder.size)}"
            )
        self.prior = prior
        self.lower = nn.ModuleList(lower(a, torch.Size([b])) for a, b in pairwise(encoder.dims))
        self.likelihood = likelihood
        self.encoder = encoder

    @property
    def codes(self) -> dict[str, int]:
        return {f"z{layer}": dim for layer, dim in enumerate(self.encoder.dims, 1)}

    def part(self, site: str, of_guide: bool = False) -> nn.Module:
        below = list(self.codes)[:-1]
        if site in below and not of_guide:
            return self.lower[below.index(site)]
        return super().part(site, of_guide)

    def model(self, x: Tensor) -> Tensor:
        """Draws the layers from the top down and observes x, of shape (n, *size); returns x."""
        register(self)
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z{len(self.lower) + 1}", self.prior())
            for layer in range(len(self.lower), 0, -1):
                z = pyro.sample(f"z{layer}", self.lower[layer - 1](z))
            return self.observe(self.likelihood(z), x)

    def guide(self, x: Tensor) -> tuple[Tensor, ...]:
        """Draws the layers at x, of shape (n, *size); returns them from the data upwards."""
        register(self)
        *messages, top = self.encoder(x)
        with pyro.plate("data", len(x)):
            codes = [pyro.sample(f"z{len(self.lower) + 1}", top)]
            for layer in range(len(messages), 0, -1):
                prior = self.lower[layer - 1](codes[0])
                q = precision_weighted(messages[layer - 1], prior)
                codes.insert(0, pyro.sample(f"z{layer}", q))
        return tuple(codes)
