r"""The aggregate posterior of sites that are rows, as the steps of a sequence are.

A step's code is its noise $\epsilon_t = (z_t - \mu_t) / \sigma_t$ under the prior given its
parents, which is standard whatever came before. Under the model all steps of all sequences have
that one law, so they can be stacked: with weights $w_{it}$,

$$q(\epsilon) = \sum_{it} w_{it}\, q(\epsilon_t \mid x_i) \Big/ \sum_{it} w_{it}.$$

Steps of one sequence hang together, so estimates leave pairs of them out. What is compared is one
step's law; a dependence between steps under the guide is not seen, which the joint of all does.
"""

from collections.abc import Sequence

import torch

from ppl_vae.objectives.divergences.aggregate_posterior import (
    AggregatePosterior,
    DistributionPrior,
)
from ppl_vae.objectives.divergences.gaussians import Gaussians
from ppl_vae.objectives.divergences.joint import aggregate_posteriors
from ppl_vae.program.plates import PlateName
from ppl_vae.program.reading import Reading, joined

__all__ = ["pooled_posteriors"]


def pooled_posteriors(
    reading: Reading,
    sites: Sequence[str],
    plate: PlateName | None = None,
    moving: bool = False,
) -> list[AggregatePosterior]:
    """The aggregate posterior of the rows of several sites, one for each vectorised particle.

    Args:
        reading: the run.
        sites: the sites, each with a mask and a scale of its own.
        plate: the plate or plates whose entries are data, where the rule leaves a choice.
        moving: whether queues may move.

    Raises:
        ValueError: for sites of several sizes, or whose priors are no location-scale family or
            not of one; for a site that depends on an enumerated one.
        NoDataPlate: see `Reading.plates`.
    """
    names = [name for name in reading.latent if name in sites]
    by_site = [aggregate_posteriors(reading, [name], plate, moving=moving) for name in names]
    return [_stacked(names, particle) for particle in zip(*by_site, strict=True)]


def _stacked(names: Sequence[str], parts: Sequence[AggregatePosterior]) -> AggregatePosterior:
    first = parts[0]
    for name, q in zip(names, parts, strict=True):
        if q.groups is not None:
            raise ValueError(
                f"pool=True: site {name!r} depends on an enumerated site, whose values are rows "
                "already: give each site a divergence of its own with sites={...}"
            )
        if not isinstance(q.prior, DistributionPrior):
            raise ValueError(
                f"pool=True: the prior of site {name!r} is no location-scale family, so its rows "
                "are not of one law with those of other sites: use a Normal, Laplace or Uniform, "
                "or give each site a divergence of its own with sites={...}"
            )
        if q.dim != first.dim or _kind(q) is not _kind(first):
            raise ValueError(
                f"pool=True: sites {names[0]!r} and {name!r} differ in size or in the family of "
                "their priors, so their rows are not of one law: pool those that agree with "
                "sites=[...]"
            )
    n = len(first)
    sizes = [q.size for q in parts if q.size is not None]
    return AggregatePosterior(
        codes=torch.cat([q.codes for q in parts]),
        prior=first.prior,
        weights=torch.cat([q.weights for q in parts]),
        groups=torch.arange(n, device=first.codes.device).repeat(len(parts)),
        data=n,
        name=joined(names),
        moving=first.moving,
        conditional_of=lambda: _conditionals(parts),
        size=torch.stack(sizes).amax(0) if sizes else None,
    )


def _kind(q: AggregatePosterior) -> type:
    assert isinstance(q.prior, DistributionPrior)
    fn = q.prior.fn
    return type(getattr(fn, "base_dist", fn))


def _conditionals(parts: Sequence[AggregatePosterior]) -> Gaussians | None:
    found = [q.conditional for q in parts]
    rows = [g for g in found if g is not None]
    covariances = [g.covariance for g in rows if g.covariance is not None]
    shapes = {c.shape for c in covariances}
    if len(rows) < len(found) or len(covariances) not in (0, len(rows)) or len(shapes) > 1:
        return None
    covariance = torch.cat(covariances) if covariances else None
    points = tuple(point for g in rows for point in g.points)
    return Gaussians(torch.cat([g.mean for g in rows]), covariance, points)
