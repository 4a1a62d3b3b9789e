"""Pairs of a model and a guide over the same data, made of parts."""

from ppl_vae.pairs.conditional import ConditionalVAE
from ppl_vae.pairs.hierarchical import HierarchicalVAE
from ppl_vae.pairs.pair import Pair
from ppl_vae.pairs.semisupervised import SemiSupervisedVAE
from ppl_vae.pairs.vae import VAE

__all__ = ["VAE", "ConditionalVAE", "HierarchicalVAE", "Pair", "SemiSupervisedVAE"]
