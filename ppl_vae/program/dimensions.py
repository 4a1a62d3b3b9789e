"""Along which batch dimension an enumerated site lies: where Pyro's own notes are read.

Pyro writes them into a site's `infer` while it enumerates, under names that are not public. A
version that did not would leave shapes, which tell sites apart unless `pyro.markov` lays one over
another's dimension.
"""

from collections.abc import Mapping

from ppl_vae.program.sites import Site

__all__ = ["dimension", "variables"]

_DIMENSION, _VARIABLES = "_enumerate_dim", "_dim_to_id"


def dimension(site: Site) -> int | None:
    """The batch dimension along which a site takes all its values; None where it takes one."""
    if _VARIABLES in site.infer:  # of every site of a run that enumerates
        found: int | None = site.infer.get(_DIMENSION)
        return found
    if site.infer.get("enumerate") != "parallel":
        return None
    # All values lie to the left of all plates; a draw has the shape of its distribution.
    plates = site.plates if site.draws is None else (*site.plates, site.draws)
    batch = site.value.shape[: site.value.dim() - site.event_dim]
    outside = len(batch) > max((-plate.dim for plate in plates), default=0)
    return -len(batch) if outside and batch != site.fn.batch_shape else None


def variables(sites: Mapping[str, Site]) -> dict[str, Mapping[int, int]]:
    """By site and batch dimension, a number for the enumerated site whose values lie along it.

    Args:
        sites: of one run, in their order.

    Raises:
        ValueError: if shapes alone do not tell.
    """
    dims = {name: dim for name, site in sites.items() if (dim := dimension(site)) is not None}
    if all(_VARIABLES in sites[name].infer for name in dims):
        return {name: site.infer.get(_VARIABLES, {}) for name, site in sites.items()}
    owner: dict[int, str] = {}
    for name, dim in dims.items():
        if dim in owner:
            raise ValueError(
                f"sites {owner[dim]!r} and {name!r} are enumerated along one dimension, and this "
                "version of Pyro does not say which of them a density depends on: take "
                "pyro.markov away"
            )
        owner[dim] = name
    return {name: {dim: -dim for dim in owner} for name in sites}
