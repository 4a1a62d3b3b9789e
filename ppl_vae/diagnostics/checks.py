"""What a pair must satisfy before the diagnostics mean anything."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from ppl_vae.diagnostics.sites import Site, describe, log_density

if TYPE_CHECKING:
    from ppl_vae.diagnostics.pair import Pair

__all__ = ["check_density", "check_guide", "data_plate", "has_density", "vectorises"]


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


def has_density(pair: "Pair", *, local: bool) -> bool:
    """Whether the guide has a density over the latents inside (or outside) the data plate.

    A point mass has none, unless it is the image of an auxiliary site drawn at the same place, as
    in Pyro's automatic guides.
    """
    sites = {k: site for k, site in pair.guide_sites.items() if site.local == local}
    points = [k for k, site in sites.items() if site.role == "latent" and k in pair.points]
    source = [k for k, site in sites.items() if site.role == "auxiliary" and k not in pair.points]
    return not points or bool(source)


def check_density(pair: "Pair") -> None:
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


def vectorises(pair: "Pair") -> bool:
    """Whether two draws run at once score the same as one at a time.

    A network may take rows of one batch dimension only, or a model may sum over the wrong
    dimension, and then draws have to be run one by one. An error in the plain run has been raised
    before this is asked, so that an error here speaks of the extra dimension alone.
    """
    pair._vectorise = True
    try:
        draws = next(pair.posterior(2, block=2 * pair.size, predict=True))
        if len(next(iter(draws.values.values()))) != 2:
            return False
        single = pair.score({k: draws.values[k] for k in pair.latents}, many=False)
        return all(
            torch.allclose(draws.log_p[k], v, rtol=1e-3, atol=1e-3, equal_nan=True)
            for k, v in single.log_p.items()
        ) and _guide_vectorises(pair, draws.values, draws.log_q)
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
        return False
    finally:
        pair._vectorise = None


def _guide_vectorises(
    pair: "Pair", values: Mapping[str, Tensor], log_q: Mapping[str, Tensor]
) -> bool:
    """Compares the guide's densities. Point masses follow from the sites they are made of."""
    if not log_q or any(site.role == "auxiliary" for site in pair.guide_sites.values()):
        return True
    for i in range(2):
        fixed = {}
        for name in pair.latents:
            if name in pair.points:
                continue
            site = pair.guide_sites[name]
            value = pair.sites[name].unlay(values[name][i : i + 1])
            fixed[name] = value.reshape(site.shape).to(pair.device)
        trace = poutine.trace(poutine.condition(pair.guide, data=fixed)).get_trace(*pair.args)
        for name in fixed:
            one = pair.guide_sites[name].lay(log_density(trace.nodes[name]), 1, 0).cpu().double()
            if not torch.allclose(one[0], log_q[name][i], rtol=1e-3, atol=1e-3, equal_nan=True):
                return False
    return True


def _compact(site: Site) -> tuple[int, ...]:
    """Shape without the leading ones that broadcasting adds."""
    shape = tuple(site.shape)
    while len(shape) > site.event_dim and shape[0] == 1:
        shape = shape[1:]
    return shape
