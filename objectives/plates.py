"""Which plate's entries are the rows of an aggregate posterior, and tensors cut into rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from ppl_vae.objectives.traces import PARTICLES, Site, Traces, same

__all__ = ["Rows", "find_rows", "local_sites"]


@dataclass(frozen=True)
class Rows:
    """The layout of a site's batch dimensions as particles, rows and the rest.

    Attributes:
        plates: names of the plates whose entries are rows.
        dims: their batch dimensions, negative.
        sizes: their sizes.
        particle_dim: the batch dimension of vectorised particles, if any.
        particles: their number.
    """

    plates: tuple[str, ...]
    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    particle_dim: int | None = None
    particles: int = 1

    def __len__(self) -> int:
        return prod(self.sizes)

    def cut(self, tensor: Tensor, batch: int) -> Tensor:
        """Reshapes `(*batch, *event)` with `batch` batch dimensions to `(particles, n, d)`."""
        order, lead = self._order(tensor, batch)
        tensor = tensor.reshape((1,) * (lead - batch) + tensor.shape).permute(order)
        if self.particle_dim is None:
            tensor = tensor[None]
        shape = (self.particles, *self.sizes)
        rest = tensor.shape[len(shape) :]
        return tensor.expand(*shape, *rest).reshape(self.particles, len(self), -1)

    def uncut(self, rows: Tensor, like: torch.Size, batch: int) -> Tensor:
        """The inverse of `cut` for a site's whole shape `like`, rows `(particles, n, d)`."""
        dummy = rows.new_empty(()).expand(like)
        order, lead = self._order(dummy, batch)
        whole = dummy.reshape((1,) * (lead - batch) + dummy.shape).permute(order).shape
        inverse = [order.index(i) for i in range(len(order))]
        return rows.reshape(whole).permute(inverse).reshape(like)

    def weights(self, site: Site, like: Tensor) -> Tensor:
        """The site's scale times its mask by row, `(particles, n)`.

        Raises:
            ValueError: if either varies along a dimension that a row joins.
        """
        weights = like.new_ones(self.particles, len(self))
        for key in ("scale", "mask"):
            value = site[key]
            if value is None or value is True:
                continue
            if not isinstance(value, Tensor) or value.dim() == 0:
                weights = weights * value
                continue
            cut = self.cut(value, value.dim())
            if cut.shape[-1] != 1:
                raise ValueError(
                    f"the {key} of site {site['name']!r} varies inside a row of plate "
                    f"{self.plates}: pool the plates with plate=(...), or mask whole rows"
                )
            weights = weights * cut[..., 0]
        return weights

    def _order(self, tensor: Tensor, batch: int) -> tuple[list[int], int]:
        front = [*self.dims] if self.particle_dim is None else [self.particle_dim, *self.dims]
        lead = max(batch, -min(front))
        first = [lead + dim for dim in front]
        rest = [i for i in range(lead) if i not in first]
        events = range(lead, lead + tensor.dim() - batch)
        order = [*first, *rest, *events]
        return order, lead


def local_sites(traces: Traces, plate: str | Sequence[str] | None) -> list[str]:
    """Latent sites inside the data plates: those named, or those that hold an observed site too.

    The unobserved half of a site with `obs_mask` is missing data, not a code, and is left out.
    """
    if plate is None:
        data = {f.name for name in traces.observed for f in _frames(traces.model_sites[name])}
        local = [
            n for n in traces.latent if data & {f.name for f in _frames(traces.guide_sites[n])}
        ]
    else:
        wanted = set(_names(plate))
        local = [
            n for n in traces.latent if wanted <= {f.name for f in _frames(traces.guide_sites[n])}
        ]
    return [n for n in local if not _is_missing_data(traces, n)]


def find_rows(traces: Traces, picked: Sequence[str], plate: str | Sequence[str] | None) -> Rows:
    """Finds the plate whose entries are the rows of the picked sites.

    Raises:
        ValueError: if there is none, several with none named, a sequential one, or sites of the
            joint differ in plate, scale or mask.
    """
    if not picked:
        raise ValueError(
            "no latent site shares a plate with an observed site, so there are no rows to "
            "aggregate: put both under `with pyro.plate('data', len(x)):` in model and guide"
        )
    for name in picked:
        if name not in traces.latent:
            raise ValueError(f"{name!r} is no latent site: the model has {traces.latent}")
        for frame in traces.guide_sites[name]["cond_indep_stack"]:
            if not frame.vectorized:
                raise ValueError(
                    f"site {name!r} is in the sequential plate {frame.name!r}: write "
                    f"`with pyro.plate({frame.name!r}, ...):` so that its entries are rows"
                )
        if not _frames(traces.guide_sites[name]):
            raise ValueError(
                f"site {name!r} is in no plate, so it has no rows: sample it under "
                "`with pyro.plate('data', len(x)):` in model and guide"
            )
    by_site: dict[str, dict[str, Any]] = {
        n: {f.name: f for f in _frames(traces.guide_sites[n])} for n in picked
    }
    common = [f for f in by_site[picked[0]] if all(f in frames for frames in by_site.values())]
    chosen = common if plate is None else list(_names(plate))
    missing = [name for name in chosen if name not in common]
    if missing or not common:
        plates = {n: list(frames) for n, frames in by_site.items()}
        what = f"plate {missing[0]!r} does not hold all of" if missing else "no plate holds all of"
        raise ValueError(f"{what} the sites of one joint, whose plates are {plates}: use sites=")
    if plate is None and len(common) > 1:
        raise ValueError(
            f"sites {list(picked)} are in several plates, {common}: name the rows with "
            f"plate={common[0]!r} (a joint over the other) or plate={tuple(common)} (pooled)"
        )
    _check_alike(traces, picked)
    frames = by_site[picked[0]]
    particle = _particle_frame(traces.guide_sites[picked[0]])
    return Rows(
        plates=tuple(chosen),
        dims=tuple(frames[name].dim for name in chosen),
        sizes=tuple(frames[name].size for name in chosen),
        particle_dim=None if particle is None else particle.dim,
        particles=1 if particle is None else particle.size,
    )


def _check_alike(traces: Traces, picked: Sequence[str]) -> None:
    first = traces.guide_sites[picked[0]]
    for name in picked[1:]:
        site = traces.guide_sites[name]
        for key in ("scale", "mask"):
            if not same(first[key], site[key]):
                raise ValueError(
                    f"sites {picked[0]!r} and {name!r} of one joint differ in {key}: give each a "
                    "divergence of its own with sites={...}"
                )


def _names(plate: str | Iterable[str]) -> tuple[str, ...]:
    return (plate,) if isinstance(plate, str) else tuple(plate)


def _frames(site: Site) -> list[Any]:
    return [f for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]


def _particle_frame(site: Site) -> Any | None:
    return next((f for f in site["cond_indep_stack"] if f.name == PARTICLES), None)


def _is_missing_data(traces: Traces, name: str) -> bool:
    stem, _, end = name.rpartition("_")
    return end == "unobserved" and f"{stem}_observed" in traces.observed
