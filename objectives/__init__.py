"""Losses: ELBO subclasses, divergences of the aggregate posterior, kernels."""

if __name__ == "objectives":
    raise ImportError("this folder is the package ppl_vae.objectives: import it by that name")

from ppl_vae.objectives.adversarial import Adversarial
from ppl_vae.objectives.aggregate import AggregatePosterior
from ppl_vae.objectives.aggregate_kl import AggregateKL
from ppl_vae.objectives.capacity import GECO, CapacityVAE
from ppl_vae.objectives.constraint import Constraint, Dual, Penalty
from ppl_vae.objectives.costs import AbsoluteError, Euclidean, SquaredError
from ppl_vae.objectives.cramer_wold import CramerWold
from ppl_vae.objectives.divergence import Divergence
from ppl_vae.objectives.energy import Energy
from ppl_vae.objectives.f_divergence import Bound
from ppl_vae.objectives.features import FourierMMD
from ppl_vae.objectives.infovae import WAE, Autoencoder, BetaVAE, InfoVAE
from ppl_vae.objectives.iwae import IWAE
from ppl_vae.objectives.kernels import (
    IMQ,
    RBF,
    Kernel,
    Laplacian,
    MultiScale,
    RationalQuadratic,
)
from ppl_vae.objectives.memory import Memory
from ppl_vae.objectives.mmd import MMD
from ppl_vae.objectives.mutual import MutualAutoencoder
from ppl_vae.objectives.objective import Objective
from ppl_vae.objectives.schedules import Cyclical, HighThenLow, Linear, Piecewise, Schedule
from ppl_vae.objectives.sinkhorn import Sinkhorn
from ppl_vae.objectives.sliced import SlicedWasserstein
from ppl_vae.objectives.stein import Stein
from ppl_vae.objectives.tcvae import TCVAE
from ppl_vae.objectives.wgan import WassersteinGP

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
]
