"""What a pair must satisfy before a diagnostic means anything."""

import logging

from ppl_vae.diagnostics.pair import Pair

__all__ = ["check_density", "check_prediction", "has_density"]

logger = logging.getLogger(__name__)


def has_density(pair: Pair, *, local: bool) -> bool:
    """Whether the guide has a density over the latents inside (or outside) the data plate.

    A point mass has none, unless it is the image of an auxiliary site sampled at the same place,
    as in Pyro's automatic guides.
    """
    sites = {k: site for k, site in pair.guide_sites.items() if site.local == local}
    points = [k for k, site in sites.items() if site.role == "latent" and k in pair.points]
    source = [k for k, site in sites.items() if site.role == "auxiliary" and k not in pair.points]
    return not points or bool(source)


def check_density(pair: Pair) -> None:
    """Refuses a pair whose log q(z given x) is not a number for each datum.

    Raises:
        ValueError: if the guide has no density in the data plate.
    """
    if not has_density(pair, local=True):
        raise ValueError(
            f"the guide draws {pair.locals} as point masses, or from a site outside the data "
            "plate: log q is no density of each datum, so there are no importance weights"
        )
    if not any(site.local for site in pair.sites.values() if site.role in ("observed", "factor")):
        logger.warning(
            "no observation is in plate %r: its weights compare the guide with the prior alone",
            pair.plate,
        )


def check_prediction(pair: Pair) -> None:
    """Refuses a pair that has no data to draw.

    Raises:
        ValueError: if the model observes factors alone.
    """
    if not pair.observed:
        factors = [k for k, site in pair.sites.items() if site.role == "factor"]
        raise ValueError(
            f"nothing to predict: the model observes only {factors}, and a factor has no "
            "distribution to draw data from: write the likelihood as pyro.sample(..., obs=x)"
        )
