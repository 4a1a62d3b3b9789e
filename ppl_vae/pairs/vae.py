"""A convenient pair of model and guide."""

import pyro
from torch import Tensor

from ppl_vae.guides.encoder import Encoder
from ppl_vae.likelihoods import Likelihood
from ppl_vae.pairs.pair import Pair, check_encoder, check_parts, part_name
from ppl_vae.priors import Prior
from ppl_vae.program.registration import register

__all__ = ["VAE"]


class VAE(Pair):
    r"""A variational auto-encoder: the model $p(z) p(x \mid z)$ and the guide
    $q(z \mid x)$.

    The latent site is `z`, the observed one `x`, the plate around both `data`. Nothing else in
    the library needs this class: a model and a guide written by hand serve as well.

    Args:
        prior: p(z).
        likelihood: p(x | z).
        encoder: q(z | x).

    Raises:
        ValueError: if the three parts disagree about the shape of z or of x.

    Example:
        >>> import pyro, torch
        >>> from ppl_vae.guides import MeanFieldNormal
        >>> from ppl_vae.likelihoods import Bernoulli
        >>> from ppl_vae.objectives import MMD, InfoVAE
        >>> from ppl_vae.priors import StandardNormal
        >>> size = (1, 8, 8)
        >>> vae = VAE(StandardNormal(2), Bernoulli(2, size), MeanFieldNormal(size, 2))
        >>> objective = InfoVAE(MMD(), alpha=1.0, scale=100.0)
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), objective)
        >>> loss = svi.step(torch.rand(100, *size))
    """

    def __init__(self, prior: Prior, likelihood: Likelihood, encoder: Encoder) -> None:
        super().__init__()
        check_parts(self, prior, likelihood, encoder)
        check_encoder(encoder)
        self.prior = prior
        self.likelihood = likelihood
        self.encoder = encoder
        for part in (likelihood, encoder):
            if part.dim != prior.dim:
                raise ValueError(
                    f"{part_name(prior)} is over {prior.dim} dimensions, "
                    f"{part_name(part)} over {part.dim}"
                )
        if likelihood.size != encoder.size:
            raise ValueError(
                f"{part_name(likelihood)} is over x of shape {tuple(likelihood.size)}, "
                f"{part_name(encoder)} reads {tuple(encoder.size)}"
            )

    def model(self, x: Tensor) -> Tensor:
        """Draws z from the prior and observes x, of shape (n, *size); returns x."""
        register(self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return self.observe(self.likelihood(z), x)

    def guide(self, x: Tensor) -> Tensor:
        """Draws z, of shape (n, d), from the encoder at x, of shape (n, *size)."""
        register(self)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.encoder(x))
