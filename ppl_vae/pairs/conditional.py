"""A pair given covariates."""

import math
from collections.abc import Sequence
from typing import ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.data.dataset import Extra
from ppl_vae.guides.encoder import Encoder
from ppl_vae.likelihoods import Likelihood
from ppl_vae.pairs.pair import Pair, check_encoder, check_parts, part_name
from ppl_vae.priors import ConditionalNormal, Prior
from ppl_vae.program.registration import register

__all__ = ["ConditionalVAE", "appended", "covariates_of", "joined"]


class ConditionalVAE(Pair):
    r"""A conditional variational auto-encoder: $p(z \mid c)\, p(x \mid z, c)$ and
    $q(z \mid x, c)$.

    The covariate c, flattened to k numbers, joins z before the likelihood, which is therefore
    built over d + k dimensions; and it joins x before the encoder as k further entries of x's
    first dimension (channels of an image, each constant), so that any likelihood, encoder and
    body will do:

        ConditionalVAE(
            ConditionalNormal(d, (k,)),
            Bernoulli(d + k, (1, 8, 8)),
            MeanFieldNormal((1 + k, 8, 8), d),
        )

    The latent site is `z`, the observed one `x`, the plate around both `data`. A divergence
    compares z in the units of its prior given c, so rows of different c do not mix.

    Args:
        prior: p(z | c), such as `ConditionalNormal`; or a prior that does not look at c.
        likelihood: p(x | z, c), over the d of z and the k of c.
        encoder: q(z | x, c).

    Raises:
        ValueError: if the parts disagree about the shape of z, c or x.

    References:
        Sohn, Lee and Yan (2015), Learning structured output representation using deep conditional
        generative models, NeurIPS.

    Example:
        >>> import torch
        >>> from ppl_vae.guides import MeanFieldNormal
        >>> from ppl_vae.likelihoods import Bernoulli
        >>> from ppl_vae.objectives import MMD, InfoVAE
        >>> from ppl_vae.priors import ConditionalNormal
        >>> prior, likelihood = ConditionalNormal(2, (3,)), Bernoulli(2 + 3, (1, 8, 8))
        >>> vae = ConditionalVAE(prior, likelihood, MeanFieldNormal((1 + 3, 8, 8), 2))
        >>> x, c = torch.rand(100, 1, 8, 8), torch.randn(100, 3)
        >>> loss = InfoVAE(MMD(), scale=10.0)(vae.model, vae.guide)(x, c)
    """

    extra: ClassVar[Extra] = "covariates"

    def __init__(
        self, prior: Prior | ConditionalNormal, likelihood: Likelihood, encoder: Encoder
    ) -> None:
        super().__init__()
        check_parts(self, prior, likelihood, encoder)
        covariates = covariates_of(prior, likelihood, encoder)
        size = getattr(prior, "size", None)
        if size is not None and math.prod(size) != covariates:
            raise ValueError(
                f"{part_name(prior)} is conditioned on {tuple(size)}, and {part_name(likelihood)} "
                f"over {likelihood.dim} dimensions leaves {covariates} for the covariate: make "
                f"that {prior.dim + math.prod(size)}"
            )
        self.prior = prior
        self.likelihood = likelihood
        self.encoder = encoder

    def model(self, x: Tensor, c: Tensor) -> Tensor:
        """Draws z given c and observes x; returns x.

        Args:
            x: data, of shape (n, *size).
            c: covariates, of shape (n, k), or (n, *shape) with k entries; turned into x's type.
        """
        register(self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self._prior(c.to(x)))
            return self.observe(self.likelihood(joined(z, _flat(z, c))), x)

    def guide(self, x: Tensor, c: Tensor) -> Tensor:
        """Draws z, of shape (n, d), from the encoder at x and c."""
        register(self)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.encoder(appended(x, _flat(x, c), self.likelihood.size)))

    def _prior(self, c: Tensor) -> TorchDistribution:
        if isinstance(self.prior, Prior):
            return self.prior()
        return self.prior(c.reshape(len(c), *self.prior.size))


def appended(x: Tensor, c: Tensor, size: Sequence[int]) -> Tensor:
    """Puts c next to x as further entries of x's first dimension.

    Args:
        x: tensor of shape (*batch, *size).
        c: tensor of shape (*batch, k); the two batch shapes are broadcast.
        size: event shape of x, of one dimension or more.

    Returns:
        Tensor of shape (*batch, size[0] + k, *size[1:]).
    """
    first, *rest = size
    batch = torch.broadcast_shapes(x.shape[: x.dim() - len(size)], c.shape[:-1])
    c = c.reshape(*c.shape, *[1] * len(rest)).expand(*batch, c.shape[-1], *rest)
    return torch.cat([x.expand(*batch, first, *rest), c.to(x)], -len(size))


def joined(z: Tensor, c: Tensor) -> Tensor:
    """Joins vectors (*batch, d) and (*batch, k), whose batch shapes are broadcast."""
    batch = torch.broadcast_shapes(z.shape[:-1], c.shape[:-1])
    return torch.cat([z.expand(*batch, -1), c.expand(*batch, -1)], -1)


def covariates_of(prior: nn.Module, likelihood: Likelihood, encoder: Encoder) -> int:
    """The number k of covariates that the likelihood and the encoder leave room for.

    Raises:
        ValueError: if that is none, or the two differ, or a prior is over other dimensions.
    """
    check_encoder(encoder)
    dim, size = int(prior.dim), likelihood.size  # type: ignore[arg-type]
    covariates = likelihood.dim - dim
    if covariates < 1 or not size:
        raise ValueError(
            f"{part_name(likelihood)} is over {likelihood.dim} dimensions and x of shape "
            f"{tuple(size)}: with k covariates and {part_name(prior)} over {dim} it must be over "
            f"{dim} + k, and x a vector or an image"
        )
    due = (size[0] + covariates, *size[1:])
    if tuple(encoder.size) != due or encoder.dim != dim:
        raise ValueError(
            f"{part_name(encoder)} reads {tuple(encoder.size)} and is over {encoder.dim} "
            f"dimensions: besides {part_name(likelihood)} over {dim} + {covariates} dimensions it "
            f"must read {due}, x and the covariates, and be over {dim}"
        )
    return covariates


def _flat(like: Tensor, c: Tensor) -> Tensor:
    return c.reshape(len(c), -1).to(like)
