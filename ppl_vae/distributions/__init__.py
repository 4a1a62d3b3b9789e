"""Distributions that Pyro lacks, or whose edges need care. They know PyTorch and Pyro only."""

from ppl_vae.distributions import kl as _kl  # noqa: F401  enters the registry
from ppl_vae.distributions.columns import Columns
from ppl_vae.distributions.counts import NegativeBinomial, ZeroInflatedNegativeBinomial
from ppl_vae.distributions.flow import Flow
from ppl_vae.distributions.implicit import Implicit
from ppl_vae.distributions.levels import Levels
from ppl_vae.distributions.logistic import DiscretizedLogisticMixture
from ppl_vae.distributions.mixture import DiagonalNormalMixture, Mixture
from ppl_vae.distributions.simplex import RelaxedOneHotCategorical
from ppl_vae.distributions.unit import Bernoulli, ContinuousBernoulli, Uniform
from ppl_vae.distributions.von_mises_fisher import VonMisesFisher

__all__ = [
    "Bernoulli",
    "Columns",
    "ContinuousBernoulli",
    "DiagonalNormalMixture",
    "DiscretizedLogisticMixture",
    "Flow",
    "Implicit",
    "Levels",
    "Mixture",
    "NegativeBinomial",
    "RelaxedOneHotCategorical",
    "Uniform",
    "VonMisesFisher",
    "ZeroInflatedNegativeBinomial",
]
