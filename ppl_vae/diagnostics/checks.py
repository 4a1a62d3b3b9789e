"""What a pair must satisfy before the diagnostics mean anything."""

from collections.abc import Mapping
from typing import Any

from pyro.poutine.subsample_messenger import _Subsample

from ppl_vae.diagnostics.sites import Site, describe

__all__ = ["check_guide", "data_plate"]


def data_plate(nodes: Mapping[str, Any], asked: str | None) -> str:
    """Name of the plate over data: the one common to the observed sites and their latents.

    Raises:
        ValueError: if there is none or several, or it is subsampled or sequential.
    """
    sites = describe(dict(nodes))
    observed = [site for site in sites.values() if site.role == "observed"]
    if not observed:
        raise ValueError("the model observes nothing: no site has obs=")
    for name, node in nodes.items():
        fn = node.get("fn")
        if isinstance(fn, _Subsample) and fn.subsample_size not in (None, fn.size):
            raise ValueError(
                f"plate {name!r} is subsampled ({fn.subsample_size} of {fn.size}): diagnostics "
                "need every datum, so call them with a pair that runs the plate in full"
            )
        for frame in node.get("cond_indep_stack", ()):
            if not frame.vectorized:
                raise ValueError(
                    f"plate {frame.name!r} is sequential: use it as `with pyro.plate(...)`"
                )
    common = set.intersection(*(set(site.dims) for site in observed))
    latents = [site for site in sites.values() if site.role == "latent"]
    if not latents:
        raise ValueError("the model has no latent site")
    local = [common & set(site.dims) for site in latents if common & set(site.dims)]
    candidates = sorted(set.intersection(common, *local) if local else common)
    if asked is not None:
        if asked not in common:
            raise ValueError(
                f"plate {asked!r} is not around every observed site; candidates: {candidates}"
            )
        return asked
    if not candidates:
        raise ValueError(
            "the pair has no data plate: put the latent and observed sites of a datum in "
            "`with pyro.plate('data', len(x)):`"
        )
    if len(candidates) > 1:
        raise ValueError(f"several plates could be the data's: choose with plate=, {candidates}")
    return candidates[0]


def check_guide(sites: Mapping[str, Site], inner: Mapping[str, Site]) -> None:
    """Holds the guide's sites against the model's.

    Raises:
        ValueError: if a latent is missing on either side, or differs in shape or plates.
    """
    for name, site in sites.items():
        if site.role != "latent":
            continue
        if name not in inner:
            raise ValueError(f"latent {name!r} of the model is not in the guide")
        other = inner[name]
        if _compact(other) != _compact(site) or other.event_dim != site.event_dim:
            raise ValueError(
                f"latent {name!r} has shape {tuple(site.shape)} with event_dim {site.event_dim} "
                f"in the model and {tuple(other.shape)} with event_dim {other.event_dim} in the "
                "guide"
            )
        if set(other.dims) != set(site.dims):
            raise ValueError(
                f"latent {name!r} is in plates {list(site.dims)} in the model and in "
                f"{list(other.dims)} in the guide"
            )


def _compact(site: Site) -> tuple[int, ...]:
    """Shape without the leading ones that broadcasting adds."""
    shape = tuple(site.shape)
    while len(shape) > site.event_dim and shape[0] == 1:
        shape = shape[1:]
    return shape
