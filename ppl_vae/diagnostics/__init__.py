"""Posterior diagnostics of a Pyro model and its guide, with ArviZ.

Every function takes `(model, guide, *args)`: two Pyro callables of the same arguments with a data
plate, of whatever origin.
"""

from ppl_vae.diagnostics.bridge import to_arviz
from ppl_vae.diagnostics.calibration import coverage, sbc
from ppl_vae.diagnostics.importance import pareto_k
from ppl_vae.diagnostics.nuts import against_nuts
from ppl_vae.diagnostics.predictive import predictive_check
from ppl_vae.evaluation.weights import khat

__all__ = [
    "against_nuts",
    "coverage",
    "khat",
    "pareto_k",
    "predictive_check",
    "sbc",
    "to_arviz",
]
