"""One run taken apart into the terms of the ELBO, for every objective that weighs them anew."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from pyro.distributions import Normal
from torch import Tensor

from ppl_vae.objectives.costs import Cost
from ppl_vae.objectives.objective import Terms
from ppl_vae.program.plates import NoDataPlate, PlateName
from ppl_vae.program.reading import Reading
from ppl_vae.program.rows import Rows
from ppl_vae.program.wrapping import base_of, has_mask_inside
from ppl_vae.world import here

__all__ = ["Decomposition", "cost_of", "decompose", "number_of_data"]

Reconstruct = Callable[[Reading, str], Tensor]


@dataclass(frozen=True)
class Decomposition:
    """One particle's terms, in nats summed over data.

    Attributes:
        reconstruction: minus the observed sites' log-density (or their cost).
        rate: the KL of the selected latent sites.
        rest: the KL of all others, and the log-density of what the guide observes: a
            `pyro.factor`, an `obs=`. These count once, whatever weighs the rate.
        data: the number of data the run stands for: the sum of row weights; 1 where no plate
            tells.
    """

    reconstruction: Tensor
    rate: Tensor
    rest: Tensor
    data: Tensor


def decompose(
    reading: Reading,
    terms: Terms,
    selected: Collection[str],
    plate: PlateName | None = None,
    reconstruct: Reconstruct | None = None,
    weighs_rate: bool = True,
    free_bits: float = 0.0,
    sampled: bool = False,
) -> Decomposition:
    """Takes a run apart, and adds its terms.

    The density of a guide's auxiliary site goes with the KL of the sites that depend on it.

    Args:
        reading: the run.
        terms: takes each term, by `kind/site`.
        selected: the latent sites whose KL is the rate.
        plate: the data plate, where the rule leaves a choice.
        reconstruct: what an observed site adds, in nats summed over data; minus its log-density
            where None.
        weighs_rate: whether the rate is wanted. Else it is 0, no density of the selected sites is
            evaluated, and their KL is only logged, where it is cheap.
        free_bits: nats per datum of each selected site's KL, its auxiliary sites' part with it,
            that are free: the rate counts at least so many, without a gradient below.
        sampled: whether no KL is taken in closed form.

    Raises:
        ValueError: for an auxiliary site on which both selected and other sites depend, or a site
            that is summed out of the priors of both.
    """
    data = number_of_data(reading, plate)
    terms.add_data(data)
    zero = torch.zeros_like(data)
    reconstruction, rate, rest = zero, zero, zero
    groups: dict[str, Tensor] = {}
    labels = reading.labels
    _check_shared(reading, selected)
    for name in reading.observed:
        term = -reading.log_prob(name) if reconstruct is None else reconstruct(reading, name)
        terms.add(f"reconstruction/{labels[name]}", term)
        reconstruction = reconstruction + term
    inside = {*selected, *reading.inside(plate)}
    for name in reading.latent:
        kind = "rate" if name in inside else "global"
        if name in selected and not weighs_rate:
            logged = _cheap_kl(reading, name)
            if logged is not None:
                terms.add(f"{kind}/{name}", logged)
            continue
        kl = reading.log_ratio(name) if sampled else reading.kl(name)
        terms.add(f"{kind}/{labels[name]}", kl)
        if name in selected:
            groups[labels[name]] = groups.get(labels[name], zero) + kl
        else:
            rest = rest + kl
    for name in reading.auxiliary:
        if _goes_with(reading, name, selected):
            if weighs_rate:
                term = reading.guide_log_prob(name)
                terms.add(f"rate/{name}", term)
                on = reading.standing_on(name)
                group = next(labels[n] for n in reading.latent if n in on and n in selected)
                groups[group] = groups[group] + term
        else:
            term = reading.guide_log_prob(name)
            terms.add(f"{'rate' if name in inside else 'auxiliary'}/{name}", term)
            rest = rest + term
    for name in reading.guide_observed:
        term = reading.guide_log_prob(name)
        terms.add(f"guide/{name}", term)
        rest = rest + term
    for kl in groups.values():
        rate = rate + (_floored(kl, free_bits, data) if free_bits else kl)
    return Decomposition(reconstruction, rate, rest, data)


def _floored(kl: Tensor, free_bits: float, data: Tensor) -> Tensor:
    """This process's part of a KL that is floored for all data at once."""
    return here().portion(torch.maximum(here().total(kl), free_bits * here().total(data)))


def _check_shared(reading: Reading, selected: Collection[str]) -> None:
    """Refuses to weigh a part of a density that several sites share."""
    for site in reading.model_sites.values():
        names = () if site.summed is None or site.is_observed else site.summed.names
        others = sorted({*names} - {*selected})
        if others and len(others) < len(names):
            raise ValueError(
                f"sites {list(names)} share a density, as {reading.marginalised} are summed out "
                f"of it, and the KL of {others} has another weight: name all of them with sites=, "
                "or none"
            )


def cost_of(reading: Reading, name: str, cost: Cost) -> Tensor:
    """The scaled, masked cost of an observed site against its distribution's mean, summed.

    Missing elements cost nothing.

    Raises:
        ValueError: for a distribution that has no mean, or a mask inside `to_event`, which a cost
            of whole data would not follow.
    """
    site = reading.model_sites[name]
    if has_mask_inside(site.fn) and site.missing is None:
        raise ValueError(
            f"the distribution of site {name!r} has a mask inside to_event, which no cost of a "
            "whole event follows: mask after .to_event(), give the elements a plate, or use "
            "InfoVAE, which takes the log-likelihood"
        )
    event, mean = site.event_dim, site.mean()
    value = site.value
    if site.missing is not None:  # whose cost is 0
        value = torch.where(site.missing, mean.detach(), value)
    x, mean = (
        t.flatten(-event) if event else t[..., None] for t in torch.broadcast_tensors(value, mean)
    )
    return reading.expectation(site.scaled(cost(x, mean)), site)


def number_of_data(reading: Reading, plate: PlateName | None) -> Tensor:
    """The sum of the row weights of all particles, each 1 where no plate tells."""
    like = _like(reading)
    try:
        plates, local = reading.plates(plate), reading.local(plate)
    except NoDataPlate:
        local = []
    if not local:
        draws = (site.draws.size for site in reading.guide_sites.values() if site.draws)
        return here().portion(like.new_ones(()) * next(draws, 1))
    sites = [reading.guide_sites[name] for name in local]
    return Rows.of(sites[0], plates).number_of_data(sites, like)


def _like(reading: Reading) -> Tensor:
    sites = [*reading.guide_sites.values(), *reading.model_sites.values()]
    values = [site.value for site in sites if site.value.is_floating_point()]
    return values[0].detach() if values else torch.ones(())


def _goes_with(reading: Reading, auxiliary: str, selected: Collection[str]) -> bool:
    """Whether selected sites depend on an auxiliary site of the guide."""
    on = reading.standing_on(auxiliary)
    ours, others = sorted(on & set(selected)), sorted(on - set(selected))
    if ours and others:
        raise ValueError(
            f"sites {ours} and {others} depend on the guide's auxiliary site {auxiliary!r}, and "
            "their KL have different weights: give each an auxiliary site of its own (AutoNormal "
            "does, a joint such as AutoMultivariateNormal does not)"
        )
    return bool(ours)


def _cheap_kl(reading: Reading, name: str) -> Tensor | None:
    """The rate of a Gaussian site, for the log of an objective that does not weigh it."""
    if reading.model_sites[name].summed is not None:
        return None
    fns = [sites[name].fn for sites in (reading.guide_sites, reading.model_sites)]
    if not all(isinstance(base_of(fn), Normal) for fn in fns) or name in reading.out_of_order:
        return None
    with torch.no_grad():
        return reading.kl(name)
