"""Training of any model and guide, and the folder a run leaves."""

from ppl_vae.training.fit import fit
from ppl_vae.training.guard import NotFinite
from ppl_vae.training.svi import SVI

__all__ = ["SVI", "NotFinite", "fit"]
