"""Pictures of runs and of diagnostics: functions that take results and know no class of them."""

from ppl_vae.plots.diagnostics import (
    plot_coverage,
    plot_nuts,
    plot_pareto_k,
    plot_predictive,
    plot_sbc,
)
from ppl_vae.plots.pictures import (
    columns,
    curves,
    is_image,
    latent,
    rate_distortion,
    reconstructions,
    samples,
)

__all__ = [
    "columns",
    "curves",
    "is_image",
    "latent",
    "plot_coverage",
    "plot_nuts",
    "plot_pareto_k",
    "plot_predictive",
    "plot_sbc",
    "rate_distortion",
    "reconstructions",
    "samples",
]
