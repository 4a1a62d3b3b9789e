"""Pictures of runs and of diagnostics: functions that take results and return matplotlib figures.

They know no class of results and need no display. `figure.savefig(path)` writes one, as does
`save`, the same each time; a notebook shows it.
"""

from ppl_vae.plots.codes import latent
from ppl_vae.plots.columns import against_columns, columns, counts, heat_map, moved
from ppl_vae.plots.diagnostics import (
    plot_coverage,
    plot_nuts,
    plot_pareto_k,
    plot_predictive,
    plot_sbc,
)
from ppl_vae.plots.output import save
from ppl_vae.plots.palette import STYLE
from ppl_vae.plots.rows import paths, points, reconstructions, samples
from ppl_vae.plots.training import curves, noise_and_spread, rate_distortion

__all__ = [
    "STYLE",
    "against_columns",
    "columns",
    "counts",
    "curves",
    "heat_map",
    "latent",
    "moved",
    "noise_and_spread",
    "paths",
    "plot_coverage",
    "plot_nuts",
    "plot_pareto_k",
    "plot_predictive",
    "plot_sbc",
    "points",
    "rate_distortion",
    "reconstructions",
    "samples",
    "save",
]
