"""Losses: ELBO subclasses, divergences of the aggregate posterior, kernels."""

if __name__ == "objectives":
    raise ImportError("this folder is the package ppl_vae.objectives: import it by that name")

from ppl_vae.objectives.aggregate import AggregatePosterior
from ppl_vae.objectives.costs import AbsoluteError, Euclidean, SquaredError
from ppl_vae.objectives.divergence import Divergence
from ppl_vae.objectives.infovae import WAE, Autoencoder, BetaVAE, InfoVAE
from ppl_vae.objectives.kernels import (
    IMQ,
    RBF,
    Kernel,
    Laplacian,
    MultiScale,
    RationalQuadratic,
)
from ppl_vae.objectives.mmd import MMD
from ppl_vae.objectives.objective import Objective

__all__ = [
    "IMQ",
    "MMD",
    "RBF",
    "WAE",
    "AbsoluteError",
    "AggregatePosterior",
    "Autoencoder",
    "BetaVAE",
    "Divergence",
    "Euclidean",
    "InfoVAE",
    "Kernel",
    "Laplacian",
    "MultiScale",
    "Objective",
    "RationalQuadratic",
    "SquaredError",
]
