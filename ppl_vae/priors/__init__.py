"""Priors p(z), and p(z | c) for a covariate c: modules whose call returns a Pyro distribution."""

from ppl_vae.priors.conditional import ConditionalNormal
from ppl_vae.priors.fixed import (
    Laplace,
    RelaxedOneHotCategorical,
    StandardNormal,
    StudentT,
    Uniform,
)
from ppl_vae.priors.flow import FlowPrior
from ppl_vae.priors.learned import DiagonalNormal, GaussianMixture
from ppl_vae.priors.prior import Prior
from ppl_vae.priors.sphere import VonMisesFisher
from ppl_vae.priors.vamp import VampPrior

__all__ = [
    "ConditionalNormal",
    "DiagonalNormal",
    "FlowPrior",
    "GaussianMixture",
    "Laplace",
    "Prior",
    "RelaxedOneHotCategorical",
    "StandardNormal",
    "StudentT",
    "Uniform",
    "VampPrior",
    "VonMisesFisher",
]
