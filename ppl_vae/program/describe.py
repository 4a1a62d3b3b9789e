"""A reading in words: a line a site, and which plate is the data's and why."""

from collections.abc import Sequence

from torch import Tensor

from ppl_vae.program.plates import NoDataPlate, reason
from ppl_vae.program.reading import Reading
from ppl_vae.program.rows import Rows
from ppl_vae.program.sites import Site
from ppl_vae.program.wrapping import distribution_name, support_name

__all__ = ["describe"]

_HEADS = ("site", "role", "plates", "model", "guide", "shape", "support", "weight")


def describe(reading: Reading) -> str:
    """The sites of a pair as a table, and the data plate.

    Columns: the site's name and role, the plates around it, its distribution in model and guide,
    the shape of its value, its support, and the weight of its density in a loss: a scale other
    than 1, and how many entries are not masked.
    """
    model, guide = reading.model_sites, reading.guide_sites
    table = [_line(site, site, guide.get(name)) for name, site in model.items()]
    table += [_line(site, None, site) for name, site in guide.items() if name not in model]
    return "\n".join([*_columns([_HEADS, *table]), "", _plate(reading)])


def _line(site: Site, model: Site | None, guide: Site | None) -> tuple[str, ...]:
    return (
        site.name,
        site.role,
        ", ".join(plate.name for plate in site.plates) or "-",
        "-" if model is None else distribution_name(model.fn),
        "-" if guide is None else distribution_name(guide.fn),
        str(tuple(site.value.shape)),
        support_name(site.fn),
        _weight(site),
    )


def _weight(site: Site) -> str:
    parts = []
    if isinstance(site.scale, Tensor):
        parts.append(f"scale {float(site.scale):g}" if site.scale.numel() == 1 else "scales vary")
    elif site.scale != 1:
        parts.append(f"scale {site.scale:g}")
    if isinstance(site.mask, Tensor):
        parts.append(f"{int(site.mask.sum())} of {site.mask.numel()} unmasked")
    elif site.mask is False:
        parts.append("masked")
    return ", ".join(parts) or "1"


def _plate(reading: Reading) -> str:
    try:
        (name,) = reading.plates()
    except NoDataPlate as error:
        return f"no data plate: {error}"
    local = reading.local()
    rows = Rows.of(reading.guide_sites[local[0]], [name])
    size = f"{len(rows)} rows"
    if rows.repeats != 1:
        size += f" that stand for {len(rows) * rows.repeats:g} data"
    why = reason(reading.model_sites, reading.guide_sites)
    return f"data plate: {name!r}, {size} of {', '.join(local)}; {why}"


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
