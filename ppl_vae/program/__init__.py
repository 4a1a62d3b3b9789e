"""A model and a guide as they are read: their sites, plates and rows of data, by one rule."""

from ppl_vae.program.plates import NoDataPlate

__all__ = ["NoDataPlate"]
