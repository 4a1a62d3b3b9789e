"""Whether a pair's guide has the densities that a diagnostic reads."""

from ppl_vae.diagnostics.pair import Pair

__all__ = ["check_density", "has_density"]


def has_density(pair: Pair, *, local: bool) -> bool:
    """Whether the guide has a density over the latents inside (or outside) the data plate.

    A point mass has none, unless it is the image of an auxiliary site drawn at the same place, as
    in Pyro's automatic guides.
    """
    sites = {k: site for k, site in pair.guide_sites.items() if site.local == local}
    points = [k for k, site in sites.items() if site.role == "latent" and k in pair.points]
    source = [k for k, site in sites.items() if site.role == "auxiliary" and k not in pair.points]
    return not points or bool(source)


def check_density(pair: Pair) -> None:
    """Refuses a pair whose log q(z given x) is not a number for each datum.

    Raises:
        ValueError: if no latent is in the data plate, or the guide has no density there.
    """
    if not pair.locals:
        raise ValueError(f"no latent site is in the data plate {pair.plate!r}")
    if not has_density(pair, local=True):
        raise ValueError(
            f"the guide draws {pair.locals} as point masses, or from a site outside the data "
            "plate: log q is no density of each datum, so there are no importance weights"
        )
