"""Posterior diagnostics of a Pyro model and its guide, with ArviZ.

Every function takes `(model, guide, *args)`: two Pyro callables of the same arguments with a data
plate, of whatever origin.
"""

from ppl_vae.diagnostics.bridge import GROUPS, to_arviz
from ppl_vae.diagnostics.calibration import Calibration, Coverage, coverage, sbc
from ppl_vae.diagnostics.compare import Comparison
from ppl_vae.diagnostics.gaps import Gaps
from ppl_vae.diagnostics.importance import ParetoK, pareto_k
from ppl_vae.diagnostics.nuts import NUTSComparison, against_nuts
from ppl_vae.diagnostics.predictive import STATISTICS, PredictiveCheck, predictive_check
from ppl_vae.evaluation.weights import khat

__all__ = [
    "GROUPS",
    "STATISTICS",
    "Calibration",
    "Comparison",
    "Coverage",
    "Gaps",
    "NUTSComparison",
    "ParetoK",
    "PredictiveCheck",
    "against_nuts",
    "coverage",
    "khat",
    "pareto_k",
    "predictive_check",
    "sbc",
    "to_arviz",
]
