"""Terms of all data at once, of pairs whose densities do not split by row."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ppl_vae.evaluation.estimate import Estimate, mean_of
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import Data, Program, arguments_of, evaluating
from ppl_vae.program.agreement import check_match
from ppl_vae.program.density import closed_kl, log_density
from ppl_vae.program.plates import NoDataPlate, check_full, rowless
from ppl_vae.program.sites import Site
from ppl_vae.program.whole import Whole
from ppl_vae.program.wrapping import is_point
from ppl_vae.records import Record

__all__ = ["Total", "TotalTerms", "pair_or_total", "total_terms"]


class Total(Whole):
    """A pair of which no latent belongs to a row of data."""

    def check(self) -> None:
        """Refuses what has no total.

        Raises:
            ValueError: for a plate that draws some of its entries at random, latents that differ
                in plates or mask between model and guide, or a guide without a density.
        """
        check_full(self.reading.model_trace, self.reading.guide_trace)
        for name in self.reading.latent:
            model, guide = self.reading.model_sites[name], self.reading.guide_sites[name]
            check_match(model.unscaled(), guide.unscaled())
        for name, site in self.reading.guide_sites.items():
            try:
                log_density(site)
            except NotImplementedError:
                raise ValueError(f"site {name!r} of the guide has no density") from None

    @property
    def note(self) -> str:
        names = ", ".join(repr(name) for name in self.reading.latent)
        return f"the total over all data given, as {names} belongs to no row"

    @cached_property
    def deterministic(self) -> bool:
        """Whether a latent is a point mass that no noise of the guide moves."""
        sites = self.reading.guide_sites
        points = [name for name in self.reading.latent if is_point(sites[name].fn)]
        if not points:
            return False
        again = self.guide_at({})
        return any(torch.equal(sites[name].value, again[name].value) for name in points)

    def require_observed(self) -> None:
        """Refuses a model without an observation."""
        if not self.reading.observed:
            raise ValueError("the model observes nothing")


def pair_or_total(
    model: Program, guide: Program, x: Data, plate: str | None, block: int | None
) -> Pair | Total:
    """A pair by row; in total where no latent belongs to a row and no plate is asked for.

    Raises:
        NoDataPlate: where there are latents in plates, and none or more than one is the data's.
        ValueError: for a pair that `Pair` or `Total` refuses.
    """
    try:
        return Pair(model, guide, x, plate, block)
    except NoDataPlate:
        total = Total(model, guide, arguments_of(x, model, guide))
        with evaluating(model, guide):
            sites = total.reading.model_sites, total.reading.guide_sites
        if plate is not None or not rowless(*sites):
            raise
    total.check()
    return total


@dataclass(frozen=True, repr=False)
class TotalTerms(Record):
    """Terms summed over all rows, by draw of the guide, in nats, each `(draws,)`.

    Attributes:
        rate: KL(q || p) of the latents, in closed form where that is right.
        cost: -log p(x | z).
        log_weight: log p(x, z) - log q(z).
    """

    rate: Tensor
    cost: Tensor
    log_weight: Tensor

    def estimates(self, count: int, note: str) -> dict[str, Estimate]:
        """Rate, distortion and ELBO, divided by `count`, with the error over draws."""
        terms = {"rate": self.rate, "distortion": self.cost, "elbo": -self.rate - self.cost}
        return {
            name: replace(
                mean_of(values / count),
                data_error=None,
                bound="lower" if name == "elbo" else None,
                note=note,
            )
            for name, values in terms.items()
        }


def total_terms(
    runs: Whole, num_samples: int, held: Mapping[str, Tensor] | None = None
) -> TotalTerms:
    """The terms of all sites but those held, at draws of the guide.

    Args:
        runs: the pair.
        num_samples: how many draws.
        held: values of latents that are not sampled.
    """
    held, reading = held or {}, runs.reading
    shared = [name for name in reading.latent if name not in held]
    draws = []
    for _ in range(num_samples):
        guide = runs.guide_at(held)
        values = {name: site.value for name, site in guide.items() if not site.is_observed}
        model = runs.model_at(values)
        cost = -_sum(site for site in model.values() if site.is_observed)
        rest = _sum(s for name, s in guide.items() if name not in shared and name not in held)
        kls, ratios = [], []
        for name in shared:
            q, p = guide[name], model[name]
            ratio = _sum([q]) - _sum([p])
            kl = None if name in reading.out_of_order else closed_kl(q, p)
            ratios.append(ratio)
            kls.append(ratio if kl is None else q.unscaled().scaled(kl).sum().double())
        terms = rest + sum(kls), cost, -cost - rest - sum(ratios)
        draws.append(torch.stack([term.cpu() for term in terms]))
    return TotalTerms(*torch.stack(draws, 1))


def _sum(sites: Iterable[Site]) -> Tensor:
    zero = torch.zeros((), dtype=torch.float64)
    return sum((log_density(site).sum().double() for site in sites), zero)
