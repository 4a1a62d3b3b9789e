r"""From the traces of a pair to the aggregate posterior of a joint of latent sites.

Codes are compared in the prior's own units: where a site's prior is a location-scale family
(Normal, Laplace, Uniform), its code is the noise $\epsilon = (z - \mu) / \sigma$ under the prior
given its parents and covariates (for Uniform the middle and half the width). For a standard normal
prior that is z itself. A family made of one of these by one to one maps of its entries, such as
LogNormal, is undone first, where the guide keeps to its support. The map from a joint to its noise
is one to one, so the divergence is zero exactly when the joint's is; and where the prior varies
along the plate, p(z | c), it does not mix rows whose priors differ. Other priors are compared as
they are, against ancestral draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ppl_vae.objectives.divergences.aggregate_posterior import (
    AggregatePosterior,
    DistributionPrior,
    Prior,
)
from ppl_vae.objectives.divergences.conditionals import Conditionals
from ppl_vae.objectives.divergences.gaussians import Gaussians
from ppl_vae.objectives.divergences.location_scale import LocationScale, units
from ppl_vae.program.plates import PlateName
from ppl_vae.program.reading import Reading
from ppl_vae.program.replays import draw_prior, run_at
from ppl_vae.program.rows import Rows
from ppl_vae.program.sites import Site
from ppl_vae.world import here

__all__ = ["aggregate_posteriors"]


def aggregate_posteriors(
    reading: Reading,
    sites: Sequence[str] | None = None,
    plate: PlateName | None = None,
    given: Callable[..., Tensor] | None = None,
    moving: bool = False,
) -> list[AggregatePosterior]:
    """The aggregate posterior of a joint of sites, one for each vectorised particle.

    Args:
        reading: the run.
        sites: the joint's sites; all local ones by default.
        plate: the plate or plates whose entries are rows, where the rule leaves a choice.
        given: covariates `(n, k)` from the model's arguments, to be matched jointly with z.
        moving: whether queues may move.

    Raises:
        ValueError: see `Reading.rows`; and for a prior that is not a location-scale family and
            varies along the plate, without `given`.
    """
    names, rows = reading.rows(plate, sites)
    if given is not None and rows.choices:
        raise ValueError("given= does not go with an enumerated guide site: relax the site")
    inside = [name for name in reading.latent if reading.guide_sites[name].inside(rows.plates)]
    return _Joint(reading, names, inside, rows, given).posteriors(moving)


@dataclass
class _Joint:
    reading: Reading
    names: list[str]
    redrawn: list[str]
    rows: Rows
    given: Callable[..., Tensor] | None
    runs: list[Tensor] = field(default_factory=list)
    checked: bool = False

    def posteriors(self, moving: bool) -> list[AggregatePosterior]:
        codes = self.codes(self.reading.guide_sites, self.reading.model_sites, self.rows)
        first = self.reading.guide_sites[self.names[0]]
        weights = self.rows.weights(first, codes)
        data = self.rows.data.weights(first, codes) if self.rows.choices else weights
        given = self.given is not None
        conditionals = Conditionals(self.reading, self.names, self.rows, given)
        found: list[Gaussians | None] = []

        def conditional(particle: int) -> Gaussians | None:
            if not found:
                found.extend(conditionals.by_particle(codes))
            return found[particle]

        shared = conditionals.is_shared
        memo: dict[object, Tensor] = {}
        found_by_particle = [
            AggregatePosterior(
                codes=codes[p],
                prior=self.prior(p, codes),
                weights=weights[p],
                groups=self.rows.groups,
                data=len(self.rows.data),
                masked=bool(self.rows.choices) or not first.weighs_all,
                aligned=given,
                name="+".join(self.names),
                moving=moving,
                conditional_of=lambda p=p: conditional(p),  # type: ignore[misc]
                shared=memo if shared else {},
                size=(data[p] > 0).sum() * self.rows.repeats,
            )
            for p in range(self.rows.particles)
        ]
        return [here().over(q, q.gathered) for q in found_by_particle]

    def codes(self, values: dict[str, Site], priors: dict[str, Site], rows: Rows) -> Tensor:
        """Values of the joint in the prior's units, `(particles, n, d)`."""
        blocks = []
        for name in self.names:
            value, fn = values[name].value, priors[name].fn
            standard = self.units(name, fn)
            if standard is not None:
                value = standard.to_noise(value)
                self._check_support(name, value, standard)
            if not value.is_floating_point():
                value = value.to(torch.get_default_dtype())  # the values of an enumerated site
            blocks.append(rows.cut(value, value.dim() - len(fn.event_shape)))
        if self.given is not None:
            covariates = self.given(*self.reading.args, **self.reading.kwargs)
            if covariates.dim() != 2 or len(covariates) != len(rows):
                raise ValueError(
                    f"given= returned shape {tuple(covariates.shape)}: it must be "
                    f"({len(rows)}, k), a row for each entry of plate {rows.plates}"
                )
            blocks.append(covariates.to(blocks[0]).expand(rows.particles, -1, -1))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, -1)

    def units(self, name: str, fn: TorchDistributionMixin) -> LocationScale | None:
        if self.reading.model_sites[name].summed is not None:
            return None  # a mixture's components have units, it has none
        return units(fn, self.reading.guide_sites[name].fn)

    def _check_support(self, name: str, noise: Tensor, standard: LocationScale) -> None:
        if standard.transforms and is_validation_enabled() and not noise.isfinite().all():
            raise ValueError(
                f"the guide's value of site {name!r} is outside the support of its prior: map it "
                "there, as pyro.distributions.transforms.biject_to(prior.support) does"
            )

    def prior(self, particle: int, codes: Tensor) -> Prior:
        families = [self.units(n, self.reading.model_sites[n].fn) for n in self.names]
        kinds = {None if f is None else f.kind for f in families}
        if self.given is None and len(kinds) == 1 and None not in kinds:
            assert families[0] is not None
            return DistributionPrior(families[0].noise(codes, codes.shape[-1]))
        return _AncestralPrior(self, particle)

    def draw(self, index: int) -> Tensor:
        """The index-th ancestral run, `(particles, n, d)`, with the rows of all processes."""
        while len(self.runs) <= index:
            self.refuse_varying()
            sites = draw_prior(self.reading, self.redrawn, self.names)
            self.runs.append(here().gather(self.codes(sites, sites, self.rows.data), 1))
        return self.runs[index]

    def refuse_varying(self) -> None:
        """Refuses priors that vary along the rows other than through a row's latent parents.

        The model is run with every latent of the first row's value in all rows: where a density
        then differs between rows, it is by covariates. Reading it waits for the device, so this
        belongs to validation.
        """
        if self.checked or self.given is not None or not is_validation_enabled():
            return
        self.checked = True
        fns = {n: self.reading.model_sites[n].fn for n in self.names}
        free = [n for n, fn in fns.items() if self.units(n, fn) is None]
        rows = self.rows.data
        varies: list[str] = []

        def first_row(site: Site) -> Tensor:
            fn, event = site.fn, site.event_dim
            value = fn.sample()
            cut = rows.cut(value, value.dim() - event)
            value = rows.uncut(cut[:, :1].expand_as(cut), value.shape, value.dim() - event)
            if site.name in free:
                try:
                    density = rows.cut(fn.log_prob(value), value.dim() - event)
                except (NotImplementedError, ValueError):
                    return value  # no density (an implicit guide's VampPrior), or not everywhere
                if not torch.allclose(density, density[:, :1].expand_as(density), rtol=1e-4):
                    varies.append(site.name)
            return value

        of_rows = {*self.redrawn, *self.reading.marginalised}
        sites = self.reading.model_sites
        order = [n for n in sites if n in of_rows and sites[n].inside(rows.plates)]
        upstream = order[: max(order.index(n) for n in self.names) + 1]
        with torch.no_grad(), torch.random.fork_rng():
            run_at(self.reading, self.redrawn, dict.fromkeys(upstream, first_row))
        if varies:
            raise ValueError(
                f"the prior of site {varies[0]!r} varies along plate {self.rows.plates}, so "
                "comparing marginals would not see a guide that is wrong in each row: pass "
                "given=, a function of the model's arguments that returns the covariates (n, k)"
            )


class _AncestralPrior(Prior):
    """The joint's prior, by running the model down to its last site."""

    def __init__(self, joint: _Joint, particle: int):
        self.joint = joint
        self.particle = particle

    def sample(self, draws: int) -> Tensor:
        n = self.joint.draw(0).shape[1]
        runs = torch.cat([self.joint.draw(i)[self.particle] for i in range(-(-draws // n))])
        # With covariates a part of a run would have part of them: whole runs, so a few more.
        return runs if self.joint.given is not None else runs[:draws]

    def log_prob(self, codes: Tensor) -> Tensor:
        # The model scores a batch's worth of codes at once; the last block is filled up.
        n, m = len(self.joint.rows.data), len(codes)
        if m != n:
            codes = codes[torch.arange(-(-m // n) * n, device=codes.device) % m]
        return torch.cat([self._log_prob(block) for block in codes.split(n)])[:m]

    def _log_prob(self, codes: Tensor) -> Tensor:
        joint, rows = self.joint, self.joint.rows.data
        if joint.given is not None:
            raise ValueError("given= leaves p(z, c) without a density: use a divergence of draws")
        joint.refuse_varying()
        total: list[Tensor] = []
        plain: list[str] = []
        start = 0

        def setter(site: Site) -> Tensor:
            nonlocal start
            fn = site.fn
            # Dimensions of what is summed over stand to the left of all plates.
            batch = int(min(len(fn.batch_shape), joint.reading.max_plate_nesting))
            shape = fn.batch_shape[len(fn.batch_shape) - batch :] + fn.event_shape
            width = shape.numel() // (rows.particles * len(rows))
            block = codes[:, start : start + width].expand(rows.particles, -1, -1)
            start += width
            value = rows.uncut(block, shape, batch)
            standard = self.joint.units(site.name, fn)
            if standard is None:
                plain.append(site.name)
                return value
            noise = standard.noise(block, width)
            total.append(noise.log_prob(block[self.particle]))
            return standard.from_noise(value)

        sites = run_at(joint.reading, joint.redrawn, {name: setter for name in joint.names})
        total += [rows.sum(sites[name].log_density())[self.particle] for name in plain]
        return torch.stack(total).sum(0)
