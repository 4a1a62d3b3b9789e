"""What weighs the KL alone: the beta-VAE and the unregularised auto-encoder."""

from typing import Any

from ppl_vae.arguments import of_step
from ppl_vae.objectives.infovae import InfoVAE
from ppl_vae.objectives.joints import OneMinus
from ppl_vae.objectives.objective import Weight

__all__ = ["Autoencoder", "BetaVAE"]


class BetaVAE(InfoVAE):
    r"""The beta-VAE: the ELBO with its KL times beta.

    $$-\mathrm{E} \log p(x \mid z) + \beta\, \mathrm{KL}(q(z \mid x) \Vert p(z))$$

    beta multiplies a KL summed over latent dimensions, against a log-likelihood summed over the
    data's. KL of latents outside the data plate keeps weight 1.

    Args:
        beta: the weight, 1 for the ELBO; a number or a function of the step.
        **elbo: as in `Objective`; `sites`, `plate` and `free_bits` as in `InfoVAE`.

    References:
        Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed and Lerchner (2017), beta-VAE,
        ICLR.
    """

    def __init__(self, beta: Weight = 1.0, **elbo: Any):
        of_step(self, beta=beta)
        if not callable(beta) and beta < 0:
            raise ValueError(f"beta={beta} must not be negative")
        alpha: Weight = OneMinus(beta) if callable(beta) else 1 - beta
        super().__init__(None, alpha=alpha, scale=beta, **elbo)
        self.beta = beta


class Autoencoder(InfoVAE):
    r"""The unregularised auto-encoder, $-\mathrm{E}_{q(z \mid x)} \log p(x \mid z)$.

    KL of latents outside the data plate stays.

    Args:
        **elbo: as in `Objective`; `sites` and `plate` as in `InfoVAE`.
    """

    def __init__(self, **elbo: Any):
        super().__init__(None, alpha=1.0, scale=0.0, **elbo)
