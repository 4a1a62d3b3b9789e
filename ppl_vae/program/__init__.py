"""A model and a guide as they are read: their sites, plates and rows of data, by one rule."""

from ppl_vae.program.plates import NoDataPlate
from ppl_vae.program.reading import Reading
from ppl_vae.program.running import read

__all__ = ["NoDataPlate", "Reading", "read"]
