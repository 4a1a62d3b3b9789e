r"""A lambda to start from, by the sizes of x and z.

The likelihood is a sum over the D numbers observed of a datum, so what it asks of the codes grows
with D, and the InfoVAE paper's MMD with an RBF kernel of $h^2 = d$ weighs lambda = D (its loss is
a mean over pixels). Other divergences have other units. `"auto"` asks of each the same price in
nats for one and the same displacement, all codes moved by one standard deviation of the prior:

$$\lambda = D\, \frac{c_{\mathrm{RBF}}(d)}{c(d)}, \qquad
  c(d) = D(N(m, I) \Vert N(0, I)),\; \lVert m \rVert = 1,$$

with $c_{\mathrm{RBF}}(d) = 2 (1 + 2 / d)^{-d / 2} (1 - e^{-1 / (2 d + 4)}) \approx 1 / (e d)$.
An optimiser such as Adam sees the size of the penalty's pull only against the reconstruction's,
and this keeps the two in one proportion. A price for means is what training needs first; a spread
is priced otherwise by each (kernels as wide as the prior feel it little), so this is a start and
no more.

A learned critic is priced by D alone: $c_{\mathrm{JS}} / 64 = .0017$ nats of a unit shift for each
number observed, which is lambda = D / 64 for the Jensen-Shannon divergence. Its pull does not fade
in high d as a kernel's of width $\sqrt d$ does, and it comes with the noise of the critic's own
training, which is as large where q(z) is right already: at the price of the kernels a code
collapses under it.
"""

import logging
from collections.abc import Mapping
from math import prod
from typing import Any

from ppl_vae.objectives.divergences.divergence import Divergence, critics
from ppl_vae.objectives.divergences.f_divergence import JensenShannon
from ppl_vae.objectives.divergences.mmd import MMD
from ppl_vae.program.reading import Reading
from ppl_vae.program.rows import Rows

__all__ = ["observed_numbers", "start", "with_scales"]

logger = logging.getLogger(__name__)


def start(divergence: Divergence, reading: Reading, names: list[str], rows: Rows) -> float:
    """The lambda that "auto" stands for in a joint of sites; it depends on sizes alone.

    Raises:
        ValueError: where nothing is observed, or the divergence has no closed form to go by.
    """
    numbers = observed_numbers(reading, rows)
    sites = [reading.guide_sites[name] for name in names]
    dim = sum(rows.width(s.value.shape, s.value.dim() - s.event_dim) for s in sites)
    unit = divergence.of_unit_shift(dim)
    joint = "+".join(names)
    if not numbers:
        raise ValueError(
            f"scale='auto' of {joint!r} goes by the numbers observed of a datum, and nothing is "
            "observed but factors: give scale a number"
        )
    assert unit is not None
    value = numbers * (_price(divergence, dim) / unit)
    logger.info(
        "lambda of %s: %.4g, from %g numbers observed of a datum and codes of d = %d",
        *(joint, value, numbers, dim),
    )
    return value


def _price(divergence: Divergence, dim: int) -> float:
    """Nats that a unit shift is to cost for each number observed."""
    if critics(divergence):
        return JensenShannon().of_unit_shift() / 64
    price = MMD().of_unit_shift(dim)
    assert price is not None
    return price


def observed_numbers(reading: Reading, rows: Rows) -> float:
    """D, how many numbers are observed of a datum: event sizes, summed over sites and over plates
    inside a row at their full size. Masks and subsampling do not change it.

    Where no observation stands in the rows' own plates, all there are count, over the rows.
    """
    sites = [reading.model_sites[name] for name in reading.observed]
    sites = [site for site in sites if site.role == "observed"]
    own = [site for site in sites if site.inside(rows.plates)]
    whole = 1.0 if own else len(rows.data) * rows.repeats
    total = 0
    for site in own or sites:
        inner = [p.full_size for p in site.plates if not own or p.name not in rows.plates]
        total += site.fn.event_shape.numel() * prod(inner)
    return total / whole


def with_scales(settings: Mapping[str, Any], scales: Mapping[str, float]) -> dict[str, Any]:
    """An objective's settings as a configuration has them, with the numbers in place of "auto"."""
    settings = dict(settings)
    if settings.get("scale") == "auto" and len(scales) == 1:
        (settings["scale"],) = scales.values()
    if isinstance(settings.get("sites"), Mapping):
        settings["sites"] = {
            name: [pair[0], scales.get(name, pair[1])] for name, pair in settings["sites"].items()
        }
    return settings
