"""Training of any model and guide, and the folder a run leaves."""

from ppl_vae.training.fit import fit
from ppl_vae.training.guard import NotFinite
from ppl_vae.training.run import History, Run

__all__ = ["History", "NotFinite", "Run", "fit"]
