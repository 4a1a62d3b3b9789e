"""The names of the package for type checkers; `__init__.py` loads them when first used."""

from ppl_vae.comparison import compare as compare
from ppl_vae.data import Dataset as Dataset
from ppl_vae.experiment import Experiment as Experiment
from ppl_vae.guides import MeanFieldNormal as MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli as Bernoulli
from ppl_vae.likelihoods import Normal as Normal
from ppl_vae.loading import load as load
from ppl_vae.objectives import MMD as MMD
from ppl_vae.objectives import WAE as WAE
from ppl_vae.objectives import BetaVAE as BetaVAE
from ppl_vae.objectives import InfoVAE as InfoVAE
from ppl_vae.objectives.outlook import read as read
from ppl_vae.pairs import VAE as VAE
from ppl_vae.pairs import ConditionalVAE as ConditionalVAE
from ppl_vae.pairs import HierarchicalVAE as HierarchicalVAE
from ppl_vae.pairs import SemiSupervisedVAE as SemiSupervisedVAE
from ppl_vae.priors import StandardNormal as StandardNormal
from ppl_vae.together import processes as processes
from ppl_vae.training import SVI as SVI
from ppl_vae.training import fit as fit

__version__: str
