"""Tensors of a site cut into rows of data, and the rows' weights."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from pyro.ops.provenance import detach_provenance
from torch import Tensor

from ppl_vae.program.sites import Site

__all__ = ["Rows", "by_row"]


@dataclass(frozen=True)
class Rows:
    """The layout of a site's batch dimensions as particles, rows and the rest.

    Where the guide enumerates, a row is a datum with one choice of the enumerated values, and its
    weight has their probability as a factor; the first n rows are all data with the first choice.

    Attributes:
        plates: names of the plates whose entries are rows.
        dims: their batch dimensions, negative.
        sizes: their sizes.
        particle_dim: the batch dimension of vectorised particles, if any.
        particles: their number.
        repeats: the data each row stands for: the plates' full sizes over their subsamples'.
        enumerated: the batch dimensions of enumerated sites, negative.
        choices: their sizes.
        probability: of the choices, by batch dimension; None where there are none.
    """

    plates: tuple[str, ...]
    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    particle_dim: int | None = None
    particles: int = 1
    repeats: float = 1.0
    enumerated: tuple[int, ...] = ()
    choices: tuple[int, ...] = ()
    probability: Tensor | None = None

    @classmethod
    def of(cls, site: Site, plates: Sequence[str]) -> "Rows":
        """The rows of a site in plates that hold it, nothing enumerated."""
        chosen = [plate for name in plates if (plate := site.plate(name)) is not None]
        return cls(
            plates=tuple(plates),
            dims=tuple(plate.dim for plate in chosen),
            sizes=tuple(plate.size for plate in chosen),
            particle_dim=None if site.draws is None else site.draws.dim,
            particles=1 if site.draws is None else site.draws.size,
            repeats=prod(plate.full_size / plate.size for plate in chosen),
        )

    def __len__(self) -> int:
        return prod(self.choices) * prod(self.sizes)

    @property
    def data(self) -> "Rows":
        """The same without enumeration: a row for each datum, as prior draws have."""
        return replace(self, enumerated=(), choices=(), probability=None)

    @property
    def groups(self) -> Tensor | None:
        """The datum of each row, `(n,)`; None where each row is a datum."""
        if self.probability is None:
            return None
        return torch.arange(len(self), device=self.probability.device) % prod(self.sizes)

    def width(self, shape: torch.Size, batch: int) -> int:
        """The d of `cut` for a tensor of a shape."""
        front = {batch + dim for dim in self._front}
        return prod(size for i, size in enumerate(shape) if i not in front)

    def cut(self, tensor: Tensor, batch: int) -> Tensor:
        """Reshapes `(*batch, *event)` with `batch` batch dimensions to `(particles, n, d)`.

        Pyro's record of the draws that a tensor follows from stays behind: custom gradients, as
        divergences have, do not keep it.
        """
        tensor = detach_provenance(tensor)
        order, lead = self._order(tensor, batch)
        tensor = tensor.reshape((1,) * (lead - batch) + tensor.shape).permute(order)
        if self.particle_dim is None:
            tensor = tensor[None]
        shape = (self.particles, *self.choices, *self.sizes)
        rest = tensor.shape[len(shape) :]
        return tensor.expand(*shape, *rest).reshape(self.particles, len(self), -1)

    def uncut(self, rows: Tensor, like: torch.Size, batch: int) -> Tensor:
        """The inverse of `cut` for a site's whole shape `like`, rows `(particles, n, d)`."""
        dummy = rows.new_empty(()).expand(like)
        order, lead = self._order(dummy, batch)
        whole = dummy.reshape((1,) * (lead - batch) + dummy.shape).permute(order).shape
        inverse = [order.index(i) for i in range(len(order))]
        return rows.reshape(whole).permute(inverse).reshape(like)

    def sum(self, values: Tensor) -> Tensor:
        """Values by batch entry summed over all but particles and rows, `(particles, n)`."""
        return self.cut(values, values.dim()).sum(-1)

    def weights(self, site: Site, like: Tensor) -> Tensor:
        """The site's scale times its mask by row, `(particles, n)`, times the row's probability.

        Raises:
            ValueError: if either varies along a dimension that a row joins.
        """
        weights = like.new_ones(self.particles, len(self), 1)
        for key, values in self._scale_and_mask(site, like):
            if values.shape[-1] != 1:
                raise ValueError(
                    f"the {key} of site {site.name!r} varies inside a row of plate "
                    f"{self.plates}: pool the plates with plate=(...), or mask whole rows"
                )
            weights = weights * values
        if self.probability is not None:
            weights = weights * self.cut(self.probability, self.probability.dim())
        return weights[..., 0]

    def number_of_data(self, sites: Iterable[Site], like: Tensor) -> Tensor:
        """The sum of the rows' weights, a row in part masked, or in some sites, in full."""
        most = like.new_zeros(self.particles, len(self))
        for site in sites:
            weights = like.new_ones(self.particles, len(self), 1)
            for _, values in self._scale_and_mask(site, like):
                weights = weights * values
            most = torch.maximum(most, weights.amax(-1))
        return most.sum()

    def _scale_and_mask(self, site: Site, like: Tensor) -> Iterator[tuple[str, Tensor]]:
        for key, value in (("scale", site.scale), ("mask", site.mask)):
            if isinstance(value, Tensor):
                yield key, self.cut(value, value.dim()) if value.dim() else value.reshape(1)
            elif value is not None and value is not True:
                yield key, like.new_full((1,), float(value))

    @property
    def _front(self) -> list[int]:
        particle = [] if self.particle_dim is None else [self.particle_dim]
        return [*particle, *self.enumerated, *self.dims]

    def _order(self, tensor: Tensor, batch: int) -> tuple[list[int], int]:
        front = self._front
        lead = max(batch, -min(front, default=0))
        first = [lead + dim for dim in front]
        rest = [i for i in range(lead) if i not in first]
        events = range(lead, lead + tensor.dim() - batch)
        order = [*first, *rest, *events]
        return order, lead


def by_row(site: Site, dims: Sequence[int]) -> Tensor:
    """A site's value with some of its batch dimensions in front.

    Args:
        site: a sample site.
        dims: the batch dimensions, negative.

    Returns:
        Tensor `(*dims, *other plates, *event)`: batch dimensions of no plate are dropped.
    """
    value = site.value.expand(site.shape)
    batch, whole = value.dim() - site.event_dim, range(value.dim())
    others = sorted(dim for dim in site.dims.values() if dim not in dims)
    order = [batch + dim for dim in [*dims, *others]]
    single = [i for i in whole[:batch] if i not in order]
    value = value.permute(*order, *whole[batch:], *single)
    return value.reshape(value.shape[: len(whole) - len(single)])
