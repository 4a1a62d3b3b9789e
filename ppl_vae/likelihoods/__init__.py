"""Likelihoods p(x | z): modules whose call returns a Pyro distribution."""

from ppl_vae.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from ppl_vae.likelihoods.likelihood import Likelihood
from ppl_vae.likelihoods.location_scale import Deterministic, Laplace, Normal
from ppl_vae.likelihoods.unit import Bernoulli, Categorical, ContinuousBernoulli

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Deterministic",
    "Laplace",
    "Likelihood",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
]
