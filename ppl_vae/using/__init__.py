"""A trained pair in use: codes of new rows, data from codes, samples, missing values filled in.

Everything takes any model and guide that have rows by the one rule for plates.
"""

from ppl_vae.using.trained import Trained

__all__ = ["Trained"]
