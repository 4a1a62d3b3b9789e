"""Pictures of runs and of diagnostics."""

from ppl_vae.plots.pictures import curves, is_image, latent, reconstructions, samples

__all__ = ["curves", "is_image", "latent", "reconstructions", "samples"]
