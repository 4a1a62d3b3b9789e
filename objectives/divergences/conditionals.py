"""The conditionals q(z_i | x_i) of a joint of latent sites, where they are Gaussian."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal

from ppl_vae.objectives.divergences.gaussians import Gaussians, moments
from ppl_vae.objectives.divergences.location_scale import LocationScale, elementwise, units
from ppl_vae.program.dependence import depends
from ppl_vae.program.reading import Reading
from ppl_vae.program.rows import Rows
from ppl_vae.program.sites import Site
from ppl_vae.program.wrapping import is_point

__all__ = ["Conditionals"]


@dataclass
class Conditionals:
    """Which sites of a joint are Gaussian by row given what the comparison reads, and how.

    Attributes:
        reading: the run.
        names: the joint's sites.
        rows: of their plates.
        is_given: whether covariates come with them.
    """

    reading: Reading
    names: Sequence[str]
    rows: Rows
    is_given: bool

    def units(self, name: str) -> LocationScale | None:
        reading = self.reading
        if reading.model_sites[name].summed is not None:
            return None
        return units(reading.model_sites[name].fn, reading.guide_sites[name].fn)

    def by_particle(self, codes: Tensor) -> list[Gaussians | None]:
        """q(z_i | x_i) by particle: leaves integrated, what others depend on as points."""
        widths = [self.width(name) for name in self.names]
        splits = [*widths, codes.shape[-1] - sum(widths)]
        blocks = [
            self._conditional(name, block)
            for name, block in zip(self.names, codes.split(splits, -1), strict=False)
        ]
        if all(covariance is None for _, covariance in blocks):
            return [None] * self.rows.particles
        points = [n for n, (_, c) in zip(self.names, blocks, strict=True) if c is None]
        if self.is_given:
            blocks.append((codes[..., sum(widths) :], None))  # the covariates
            points.append("given=")
        mean = torch.cat([m for m, _ in blocks], -1)
        covariance = _block_diagonal(blocks)
        return [Gaussians(m, c, tuple(points)) for m, c in zip(mean, covariance, strict=True)]

    def _conditional(self, name: str, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and covariance of one site by row, `(particles, n, w)`; None for points."""
        site = self.reading.guide_sites[name]
        standard = self.units(name)
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
            standard = self.units(other)
            if standard is not None:
                reached += [standard.loc, standard.scale]
        return not depends(reached, value)

    @property
    def is_shared(self) -> bool:
        """Whether the particles' conditionals are one conditional, broadcast."""
        dim = self.rows.particle_dim
        if dim is None or len(self.names) > 1 or self.is_given:
            return False
        site = self.reading.guide_sites[self.names[0]]
        standard = self.units(site.name)
        found = self._moments(site, standard)
        if found is None or standard is None:
            return False
        tensors = [t for t in (found[0], standard.loc, standard.scale) if t is not None]
        return all(_is_broadcast(t, dim - site.event_dim) for t in tensors)

    def width(self, name: str) -> int:
        site = self.reading.guide_sites[name]
        return self.rows.width(site.value.shape, site.value.dim() - site.event_dim)


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
