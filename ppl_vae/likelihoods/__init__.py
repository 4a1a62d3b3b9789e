"""Likelihoods p(x | z): modules whose call returns a Pyro distribution."""

from ppl_vae.likelihoods.autoregressive import AutoregressiveLikelihood
from ppl_vae.likelihoods.columns import Columns
from ppl_vae.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from ppl_vae.likelihoods.likelihood import Likelihood
from ppl_vae.likelihoods.location_scale import Deterministic, Laplace, Normal
from ppl_vae.likelihoods.logistic import LogisticMixture
from ppl_vae.likelihoods.pixelcnn import PixelCNN
from ppl_vae.likelihoods.pixelcnnpp import PixelCNNpp
from ppl_vae.likelihoods.pixels import BinaryPixels, CategoricalPixels, LogisticPixels, Pixels
from ppl_vae.likelihoods.unit import Bernoulli, Categorical, ContinuousBernoulli

__all__ = [
    "AutoregressiveLikelihood",
    "Bernoulli",
    "BinaryPixels",
    "Categorical",
    "CategoricalPixels",
    "Columns",
    "ContinuousBernoulli",
    "Deterministic",
    "Laplace",
    "Likelihood",
    "LogisticMixture",
    "LogisticPixels",
    "NegativeBinomial",
    "Normal",
    "PixelCNN",
    "PixelCNNpp",
    "Pixels",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
]
