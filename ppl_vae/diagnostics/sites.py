"""The layout in which the diagnostics hold the tensors of a site.

Pyro lays batch dimensions out from the right: a site in a plate at dim -2 has a dimension of size
1 between that plate and the event. Here every tensor has the layout

    (draw, data plate, other plates from left to right, *event)

whatever dims the plates stand at, and a site outside the data plate lacks that dimension. Where
no latent belongs to a datum the whole data set is one row: every site has a dimension of size 1
in the data plate's place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppl_vae.program.sites import Plate, Role, Site

__all__ = ["Layout", "draw_count"]


@dataclass(frozen=True)
class Layout:
    """What one plain run shows of a site.

    Attributes:
        name: the site's name.
        role: the site's role, see `ppl_vae.program.sites.Role`.
        plates: the plates around it, the data plate first.
        event_dim: number of event dimensions of its value.
        shape: shape of its value in the plain run.
        local: whether it belongs to a row.
        joint: whether all data are one row.
    """

    name: str
    role: Role
    plates: tuple[Plate, ...]
    event_dim: int
    shape: torch.Size
    local: bool
    joint: bool

    @classmethod
    def of(cls, site: Site, plate: str | None, sizes: Mapping[str, int]) -> "Layout":
        """The layout of a site whose rows are the entries of `plate`, all data's where None.

        Args:
            site: of a run without draws.
            plate: the data plate.
            sizes: the sizes of all plates, which an unsized one does not say at every site.
        """
        plates = sorted(site.plates, key=lambda p: (p.name != plate, p.dim))
        plates = [replace(p, size=sizes[p.name]) for p in plates]
        event_dim, value = site.event_dim, site.value
        if site.role == "deterministic":
            # pyro.deterministic calls every dimension an event; the plates' are recognised.
            batch = value.shape[: site.depth]
            if len(batch) < site.depth or any(batch[p.dim] != p.size for p in plates):
                plates = []
            event_dim = value.dim() - max([-p.dim for p in plates], default=0)
        local = plate is None or any(p.name == plate for p in plates)
        return cls(
            site.name, site.role, tuple(plates), event_dim, value.shape, local, plate is None
        )

    @property
    def event_shape(self) -> torch.Size:
        return self.shape[len(self.shape) - self.event_dim :]

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the plates, in the order of the layout."""
        return tuple(plate.name for plate in self.plates)

    @property
    def depth(self) -> int:
        """The number of batch dimensions that plates take in Pyro's layout."""
        return max([-plate.dim for plate in self.plates], default=0)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return (1,) * self.joint + tuple(plate.size for plate in self.plates)

    def lay(self, tensor: Tensor, draws: int, event_dim: int | None = None) -> Tensor:
        """Brings a value or a log-density of the site into the layout.

        Args:
            tensor: of shape (*batch, *event) with or without a draw dimension, which stands left
                of all plates.
            draws: number of draws it holds, or is repeated over.
            event_dim: event dimensions of `tensor`: 0 for a log-density, default the site's.

        Raises:
            ValueError: if a batch dimension belongs to no plate.
        """
        event_dim = self.event_dim if event_dim is None else event_dim
        cut = tensor.dim() - event_dim
        batch, event = tensor.shape[:cut], tensor.shape[cut:]
        depth = max(self.depth, len(batch) - 1, 0)
        target = [draws] + [1] * depth
        for plate in self.plates:
            target[plate.dim] = plate.size
        tensor = tensor.reshape((1,) * (depth + 1 - len(batch)) + tensor.shape)
        try:
            tensor = tensor.expand(*target, *event)
        except RuntimeError as error:
            raise ValueError(
                f"site {self.name!r} has batch shape {tuple(batch)}, which its plates "
                f"{list(self.dims)} do not account for: declare the other dimensions with "
                ".to_event() or with a plate"
            ) from error
        axes = [depth + 1 + plate.dim for plate in self.plates]
        rest = [axis for axis in range(1, depth + 1) if axis not in axes]
        last = range(depth + 1, depth + 1 + event_dim)
        return tensor.permute(0, *axes, *rest, *last).reshape(draws, *self._sizes, *event)

    def unlay(self, tensor: Tensor) -> Tensor:
        """The inverse of `lay` for a value: Pyro's layout, the draw dimension first."""
        event = tensor.shape[1 + len(self._sizes) :]
        tensor = tensor.reshape(len(tensor), *(plate.size for plate in self.plates), *event)
        order = sorted(range(len(self.plates)), key=lambda i: self.plates[i].dim)
        events = range(1 + len(order), tensor.dim())
        batch = [1] * self.depth
        for plate in self.plates:
            batch[plate.dim] = plate.size
        tensor = tensor.permute(0, *(1 + i for i in order), *events)
        return tensor.reshape(len(tensor), *batch, *event)


def draw_count(draws: int, least: int = 1, what: str = "draws") -> int:
    """Checks a number of draws."""
    if not isinstance(draws, int) or draws < least:
        raise ValueError(f"{what} must be an integer of at least {least}, got {draws!r}")
    return draws
