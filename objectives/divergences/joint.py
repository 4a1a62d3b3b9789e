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
from torch.distributions import Normal

from ppl_vae.objectives.divergences.aggregate_posterior import (
    AggregatePosterior,
    DistributionPrior,
    Prior,
)
from ppl_vae.objectives.divergences.gaussians import Gaussians, moments
from ppl_vae.objectives.divergences.location_scale import (
    LocationScale,
    elementwise,
    location_scale,
)
from ppl_vae.program.density import is_real
from ppl_vae.program.dependence import depends
from ppl_vae.program.plates import PlateName
from ppl_vae.program.reading import Reading
from ppl_vae.program.rows import Rows
from ppl_vae.program.sites import Site, is_point

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
        conditionals: list[Gaussians | None] | None = None

        def conditional(particle: int) -> Gaussians | None:
            nonlocal conditionals
            if conditionals is None:
                conditionals = self.conditionals(codes)
            return conditionals[particle]

        shared = self.is_shared
        memo: dict[object, Tensor] = {}
        return [
            AggregatePosterior(
                codes=codes[p],
                prior=self.prior(p),
                weights=weights[p],
                groups=self.rows.groups,
                data=len(self.rows.data),
                masked=bool(self.rows.choices) or not first.weighs_all,
                aligned=self.given is not None,
                name="+".join(self.names),
                moving=moving,
                conditional_of=lambda p=p: conditional(p),  # type: ignore[misc]
                shared=memo if shared else {},
                size=(data[p] > 0).sum() * self.rows.repeats,
            )
            for p in range(self.rows.particles)
        ]

    def codes(self, values: dict[str, Site], priors: dict[str, Site], rows: Rows) -> Tensor:
        """Values of the joint in the prior's units, `(particles, n, d)`."""
        blocks = []
        for name in self.names:
            value, fn = values[name].value, priors[name].fn
            standard = self.standard(name, fn)
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

    def standard(self, name: str, fn: TorchDistributionMixin) -> LocationScale | None:
        """A prior's location, scale and transforms, unless a guide on all real numbers would
        leave its support."""
        found = location_scale(fn)
        if found is None or not found.transforms:
            return found
        guide = self.reading.guide_sites[name].fn
        strays = is_real(guide) and not is_real(fn) and not is_point(guide)
        return None if strays else found

    def _check_support(self, name: str, noise: Tensor, standard: LocationScale) -> None:
        if standard.transforms and is_validation_enabled() and not noise.isfinite().all():
            raise ValueError(
                f"the guide's value of site {name!r} is outside the support of its prior: map it "
                "there, as pyro.distributions.transforms.biject_to(prior.support) does"
            )

    def conditionals(self, codes: Tensor) -> list[Gaussians | None]:
        """q(z_i | x_i) by particle: leaves integrated, what others depend on as points."""
        widths = [self._width(name) for name in self.names]
        splits = [*widths, codes.shape[-1] - sum(widths)]
        blocks = [
            self._conditional(name, block)
            for name, block in zip(self.names, codes.split(splits, -1), strict=False)
        ]
        if all(covariance is None for _, covariance in blocks):
            return [None] * self.rows.particles
        points = [n for n, (_, c) in zip(self.names, blocks, strict=True) if c is None]
        if self.given is not None:
            blocks.append((codes[..., sum(widths) :], None))  # the covariates
            points.append("given=")
        mean = torch.cat([m for m, _ in blocks], -1)
        covariance = _block_diagonal(blocks)
        return [Gaussians(m, c, tuple(points)) for m, c in zip(mean, covariance, strict=True)]

    def _conditional(self, name: str, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and covariance of one site by row, `(particles, n, w)`; None for points."""
        site = self.reading.guide_sites[name]
        standard = self.standard(name, self.reading.model_sites[name].fn)
        found = self._moments(site, standard) if self._is_leaf(name) else None
        if found is None or found[1] is None:
            return codes, None
        loc, covariance = found[0], found[1]
        event = site.event_dim
        is_full = covariance.dim() > loc.dim()
        if is_full and codes.shape[-1] != loc.shape[-1]:
            return codes, None  # several covariances a row, one for each entry of another plate
        if standard is not None:
            loc = (loc - standard.loc) / standard.scale
            scale = standard.scale.expand(loc.shape)
            outer = scale[..., None] * scale[..., None, :] if is_full else scale.square()
            covariance = covariance / outer
        mean = self.rows.cut(loc, loc.dim() - event)
        rows = self.rows.cut(covariance, covariance.dim() - event - is_full)
        return mean, rows.unflatten(-1, mean.shape[-1:] * 2) if is_full else rows

    def _moments(
        self, site: Site, standard: LocationScale | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """Mean and covariance of a guide site's noise before the prior's transforms."""
        fn, transforms = elementwise(site.fn)
        if transforms != (() if standard is None else standard.transforms):
            return None
        source = self._source(site)
        if source is None:
            return moments(fn if transforms else site.fn)
        normal, _ = elementwise(source.fn)
        loc, scale = (t.expand(source.shape).contiguous() for t in (normal.loc, normal.scale))
        return _like(site.value, source.value, loc), _like(site.value, source.value, scale) ** 2

    def _source(self, site: Site) -> Site | None:
        """The auxiliary normal that a point is entries of, as an AutoNormal's and EasyGuide's."""
        if not is_point(site.fn):
            return None
        for name in self.reading.auxiliary:
            source = self.reading.guide_sites[name]
            shared = _storage(source.value) == _storage(site.value)
            if shared and isinstance(elementwise(source.fn)[0], Normal):
                return source if source.value.is_contiguous() else None
        return None

    def _is_leaf(self, name: str) -> bool:
        """Whether nothing else of the comparison is a function of this site's draw: no other
        selected site's guide or prior, no enumerated site's probability, and not its own prior, as
        where the guide samples a parent of the model's given its child."""
        others = [other for other in self.names if other != name]
        priors = [*others, name] if name in self.reading.out_of_order else others
        order = list(self.reading.guide_sites)
        below = any(order.index(other) > order.index(name) for other in self.reading.enumerated)
        chances = [self.rows.probability] if below and self.rows.probability is not None else []
        if not priors and not chances:
            return True
        site = self.reading.guide_sites[name]
        value = (self._source(site) or site).value
        if not value.requires_grad:
            return False
        values = [self.reading.guide_sites[other].value for other in others]
        reached = chances + [v for v in values if not _apart(v, site.value, value)]
        for other in priors:
            standard = self.standard(other, self.reading.model_sites[other].fn)
            if standard is not None:
                reached += [standard.loc, standard.scale]
        return not depends(reached, value)

    @property
    def is_shared(self) -> bool:
        """Whether the particles' conditionals are one conditional, broadcast."""
        dim = self.rows.particle_dim
        if dim is None or len(self.names) > 1 or self.given is not None:
            return False
        site = self.reading.guide_sites[self.names[0]]
        standard = self.standard(site.name, self.reading.model_sites[site.name].fn)
        found = self._moments(site, standard)
        if found is None or standard is None:
            return False
        tensors = [t for t in (found[0], standard.loc, standard.scale) if t is not None]
        return all(_is_broadcast(t, dim - site.event_dim) for t in tensors)

    def _width(self, name: str) -> int:
        site = self.reading.guide_sites[name]
        return self.rows.width(site.value.shape, site.value.dim() - site.event_dim)

    def prior(self, particle: int) -> Prior:
        families = [self.standard(n, self.reading.model_sites[n].fn) for n in self.names]
        kinds = {None if f is None else f.kind for f in families}
        if self.given is None and len(kinds) == 1 and None not in kinds:
            like = self.reading.guide_sites[self.names[0]].value
            dim = sum(self._width(name) for name in self.names)
            assert families[0] is not None
            return DistributionPrior(families[0].noise(like, dim))
        return _AncestralPrior(self, particle)

    def draw(self, index: int) -> Tensor:
        """The index-th ancestral run, `(particles, n, d)`."""
        while len(self.runs) <= index:
            self.refuse_varying()
            sites = self.reading.draw_prior(self.redrawn, self.names)
            self.runs.append(self.codes(sites, sites, self.rows.data))
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
        free = [n for n, fn in fns.items() if self.standard(n, fn) is None]
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

        order = [n for n in self.reading.latent if n in self.redrawn]
        upstream = order[: max(order.index(n) for n in self.names) + 1]
        with torch.no_grad(), torch.random.fork_rng():
            self.reading.at(self.redrawn, dict.fromkeys(upstream, first_row))
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
        n = len(self.joint.rows.data)
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
        start = 0

        def setter(site: Site) -> Tensor:
            nonlocal start
            fn = site.fn
            shape = fn.batch_shape + fn.event_shape
            batch = len(fn.batch_shape)
            width = shape.numel() // (rows.particles * len(rows))
            block = codes[:, start : start + width].expand(rows.particles, -1, -1)
            start += width
            value = rows.uncut(block, shape, batch)
            standard = self.joint.standard(site.name, fn)
            if standard is None:
                total.append(rows.cut(fn.log_prob(value), batch)[self.particle].sum(-1))
                return value
            noise = standard.noise(block, width)
            total.append(noise.log_prob(block[self.particle]))
            return standard.from_noise(value)

        joint.reading.at(joint.redrawn, {name: setter for name in joint.names})
        return torch.stack(total).sum(0)


def _block_diagonal(blocks: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    filled = [(m, torch.zeros_like(m) if c is None else c) for m, c in blocks]
    if all(c.shape == m.shape for m, c in filled):
        return torch.cat([c for _, c in filled], -1)
    width = sum(m.shape[-1] for m, _ in filled)
    whole = filled[0][0].new_zeros(*filled[0][0].shape[:-1], width, width)
    start = 0
    for m, c in filled:
        end = start + m.shape[-1]
        whole[..., start:end, start:end] = torch.diag_embed(c) if c.shape == m.shape else c
        start = end
    return whole


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _like(view: Tensor, source: Tensor, other: Tensor) -> Tensor:
    """The entries of a tensor of the source's shape that a view of the source has."""
    offset = view.storage_offset() - source.storage_offset()
    return other.as_strided(view.shape, view.stride(), offset)


def _apart(a: Tensor, b: Tensor, source: Tensor) -> bool:
    """Whether both are views of the source, of no common entry."""
    if not _storage(a) == _storage(b) == _storage(source):
        return False
    seen = torch.zeros(source.shape)  # on the host, as only shapes matter
    _like(a, source, seen).fill_(1)
    return not _like(b, source, seen).any()


def _is_broadcast(tensor: Tensor, dim: int) -> bool:
    return tensor.dim() < -dim or tensor.stride(dim) == 0 or tensor.shape[dim] == 1
