"""Losses: ELBO subclasses, divergences of the aggregate posterior, kernels."""

if __name__ == "objectives":
    raise ImportError("this folder is the package ppl_vae.objectives: import it by that name")

from ppl_vae.objectives.betavae import Autoencoder, BetaVAE
from ppl_vae.objectives.capacity import GECO, CapacityVAE
from ppl_vae.objectives.constrained import Constraint, Dual, Penalty
from ppl_vae.objectives.costs import AbsoluteError, Euclidean, SquaredError
from ppl_vae.objectives.divergences.adversarial import Adversarial
from ppl_vae.objectives.divergences.aggregate_kl import AggregateKL
from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior
from ppl_vae.objectives.divergences.cramer_wold import CramerWold
from ppl_vae.objectives.divergences.divergence import Divergence
from ppl_vae.objectives.divergences.energy import Energy
from ppl_vae.objectives.divergences.f_divergence import Bound
from ppl_vae.objectives.divergences.fourier_mmd import FourierMMD
from ppl_vae.objectives.divergences.kernels import (
    IMQ,
    RBF,
    Kernel,
    Laplacian,
    MultiScale,
    RationalQuadratic,
)
from ppl_vae.objectives.divergences.memory import Memory
from ppl_vae.objectives.divergences.mmd import MMD
from ppl_vae.objectives.divergences.sinkhorn import Sinkhorn
from ppl_vae.objectives.divergences.sliced import SlicedWasserstein
from ppl_vae.objectives.divergences.stein import Stein
from ppl_vae.objectives.divergences.wgan import WassersteinGP
from ppl_vae.objectives.infovae import InfoVAE
from ppl_vae.objectives.iwae import IWAE
from ppl_vae.objectives.mutual import MutualAutoencoder
from ppl_vae.objectives.noise import penalty_noise
from ppl_vae.objectives.objective import Objective
from ppl_vae.objectives.schedules import Cosine, Cyclical, HighThenLow, Linear, Piecewise, Schedule
from ppl_vae.objectives.tcvae import TCVAE
from ppl_vae.objectives.wae import WAE

__all__ = [
    "GECO",
    "IMQ",
    "IWAE",
    "MMD",
    "RBF",
    "TCVAE",
    "WAE",
    "AbsoluteError",
    "Adversarial",
    "AggregateKL",
    "AggregatePosterior",
    "Autoencoder",
    "BetaVAE",
    "Bound",
    "CapacityVAE",
    "Constraint",
    "Cosine",
    "CramerWold",
    "Cyclical",
    "Divergence",
    "Dual",
    "Energy",
    "Euclidean",
    "FourierMMD",
    "HighThenLow",
    "InfoVAE",
    "Kernel",
    "Laplacian",
    "Linear",
    "Memory",
    "MultiScale",
    "MutualAutoencoder",
    "Objective",
    "Penalty",
    "Piecewise",
    "RationalQuadratic",
    "Schedule",
    "Sinkhorn",
    "SlicedWasserstein",
    "SquaredError",
    "Stein",
    "WassersteinGP",
    "penalty_noise",
]
