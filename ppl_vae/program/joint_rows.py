"""The rows that a joint of sites has in its plates: one weight each, and one density each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ppl_vae.program.agreement import same
from ppl_vae.program.dimensions import dimension
from ppl_vae.program.enumeration import Enumeration
from ppl_vae.program.rows import Rows
from ppl_vae.program.sites import Site
from ppl_vae.program.wrapping import has_mask_inside

__all__ = ["check_by_row", "rows_of"]

Sites = Mapping[str, Site]


def rows_of(
    joint: Sequence[str],
    plates: tuple[str, ...],
    model: Sites,
    guide: Sites,
    enumeration: Enumeration,
) -> Rows:
    """The rows of the sites of a joint.

    Args:
        joint: names of latent sites.
        plates: whose entries are rows.
        model: the model's sites.
        guide: the guide's.
        enumeration: of the guide's sites.

    Raises:
        ValueError: if sites of the joint differ in scale or mask, or depend on a site that is
            enumerated elsewhere than once a row.
    """
    first = guide[joint[0]]
    for name in joint:
        site = guide[name]
        for key in ("scale", "mask"):
            if not same(getattr(first, key), getattr(site, key)):
                raise ValueError(
                    f"sites {first.name!r} and {name!r} of one joint differ in {key}: give "
                    "each a divergence of its own with sites={...}, or name those that agree "
                    "with sites=[...]"
                )
        for fn in (site.fn, model[name].fn):
            if has_mask_inside(fn):
                raise ValueError(
                    f"the distribution of site {name!r} has a mask inside to_event, which "
                    "does not say which rows count: mask after .to_event(), or use `with "
                    "poutine.mask(mask=...):` in model and guide"
                )
    if any(model[name].summed is not None for name in joint):
        check_by_row(model, plates)
    rows = Rows.of(first, plates)
    choices = _choices(joint, plates, model, guide, enumeration)
    if not choices:
        return rows
    return replace(
        rows,
        enumerated=tuple(enumeration.dims[name] for name in choices),
        choices=tuple(choices.values()),
        probability=enumeration.probability(choices, first),
    )


def check_by_row(model: Sites, plates: Sequence[str]) -> None:
    """Refuses densities that do not split by row, as what all rows share is summed out.

    Raises:
        ValueError: naming a site that the model sums over outside the plates.
    """
    for k in model.values():
        dim = dimension(k) if k.role == "marginalised" and not k.inside(plates) else None
        if dim is None:
            continue
        for site in model.values():
            batch = site.fn.batch_shape
            if site.inside(plates) and len(batch) >= -dim and batch[dim] > 1:
                raise ValueError(
                    f"site {k.name!r} of the model is summed over outside plate {plates}, and "
                    f"{site.name!r} depends on it, so the rows have no densities of their "
                    "own: give each row a value of it, inside the plate, or use "
                    "InfoVAE(alpha=0)"
                )


def _choices(
    joint: Sequence[str],
    plates: tuple[str, ...],
    model: Sites,
    guide: Sites,
    enumeration: Enumeration,
) -> dict[str, int]:
    """The enumerated sites that a row's codes depend on, with their sizes."""
    if not enumeration.dims:
        return {}
    sites = [guide[name] for name in joint]
    shapes = [s.value.shape[: s.value.dim() - s.event_dim] for s in sites]
    shapes += [s.fn.batch_shape for s in sites]
    shapes += [model[name].batch_shape for name in joint]
    choices = enumeration.choices(*shapes)
    for name in choices:
        inside = list(guide[name].dims)
        if not inside or not set(inside) <= set(plates):
            where = f"in plates {inside}" if inside else "outside the data plate"
            raise ValueError(
                f"site {name!r} is enumerated {where}, so a row of plate {plates} does not "
                "have one value of it: leave the sites that depend on it out with sites=, or "
                "use an objective without a divergence, such as BetaVAE()"
            )
    return choices
