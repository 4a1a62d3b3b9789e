"""Which plate's entries are the rows of an aggregate posterior, and tensors cut into rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from pyro.distributions import Independent, MaskedDistribution
from torch import Tensor

from ppl_vae.objectives.agreement import same
from ppl_vae.objectives.traces import PARTICLES, Site, Traces

__all__ = ["Rows", "check_sites", "data_sites", "find_rows", "local_sites"]


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
        """Reshapes `(*batch, *event)` with `batch` batch dimensions to `(particles, n, d)`."""
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

    def weights(self, site: Site, like: Tensor) -> Tensor:
        """The site's scale times its mask by row, `(particles, n)`, times the row's probability.

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
        if self.probability is not None:
            weights = weights * self.cut(self.probability, self.probability.dim())[..., 0]
        return weights

    @property
    def _front(self) -> list[int]:
        particle = [] if self.particle_dim is None else [self.particle_dim]
        return [*particle, *self.enumerated, *self.dims]

    def _order(self, tensor: Tensor, batch: int) -> tuple[list[int], int]:
        front = self._front
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
    return [n for n in data_sites(traces, plate) if not _is_missing_data(traces, n)]


def data_sites(traces: Traces, plate: str | Sequence[str] | None) -> list[str]:
    """Latent sites inside the data plates, missing data among them."""
    plates = {n: {f.name for f in _frames(traces.guide_sites[n])} for n in traces.latent}
    if plate is not None:
        return [name for name, inside in plates.items() if inside >= set(_names(plate))]
    data = data_plates(traces)
    return [name for name, inside in plates.items() if data & inside]


def data_plates(traces: Traces) -> set[str]:
    """The plates that hold all observed sites, of those that are in a plate at all."""
    frames = [{f.name for f in _frames(traces.model_sites[name])} for name in traces.observed]
    inside = [plates for plates in frames if plates]
    return set.intersection(*inside) if inside else set()


def check_sites(traces: Traces, picked: Sequence[str], plate: str | Sequence[str] | None) -> None:
    """Refuses names that nothing has, and sites of which it is not clear what their rows are.

    Raises:
        ValueError: see `find_rows`.
    """
    if not picked and plate is not None:
        plates = {n: [f.name for f in _frames(traces.guide_sites[n])] for n in traces.latent}
        raise ValueError(f"no latent site is in plate {plate!r}; their plates are {plates}")
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
    if plate is None:
        data = data_plates(traces)
        inside = [f.name for n in picked for f in _frames(traces.guide_sites[n])]
        several = [name for name in dict.fromkeys(inside) if name in data]
        if len(several) > 1:
            raise ValueError(
                f"sites {list(picked)} are in several plates, {several}: name the rows with "
                f"plate={several[0]!r} (a joint over the other) or, where all are in each, "
                f"plate={tuple(several)} (pooled)"
            )


def find_rows(traces: Traces, picked: Sequence[str], plate: str | Sequence[str] | None) -> Rows:
    """Finds the plate whose entries are the rows of the picked sites.

    Raises:
        ValueError: if there is none, several with none named, a sequential one, or sites of the
            joint differ in plate, scale or mask; or depend on a site that is enumerated elsewhere
            than once a row.
    """
    check_sites(traces, picked, plate)
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
    for name in picked:
        for site in (traces.guide_sites[name], traces.model_sites[name]):
            if _is_masked(site["fn"]):
                raise ValueError(
                    f"the distribution of site {name!r} has a mask of its own, which does not say "
                    "which rows count: use `with poutine.mask(mask=...):` in model and guide"
                )
    frames = by_site[picked[0]]
    particle = _particle_frame(traces.guide_sites[picked[0]])
    choices = _choices(traces, picked, chosen)
    return Rows(
        plates=tuple(chosen),
        dims=tuple(frames[name].dim for name in chosen),
        sizes=tuple(frames[name].size for name in chosen),
        particle_dim=None if particle is None else particle.dim,
        particles=1 if particle is None else particle.size,
        repeats=prod((frames[n].full_size or frames[n].size) / frames[n].size for n in chosen),
        enumerated=tuple(traces.enumerated[name] for name in choices),
        choices=tuple(choices.values()),
        probability=traces.probability(choices, traces.guide_sites[picked[0]]),
    )


def _choices(traces: Traces, picked: Sequence[str], plates: Sequence[str]) -> dict[str, int]:
    """The enumerated sites that a row's codes hang on, with their sizes."""
    sites = [traces.guide_sites[n] for n in picked]
    shapes = [s["value"].shape[: s["value"].dim() - len(s["fn"].event_shape)] for s in sites]
    shapes += [s["fn"].batch_shape for s in sites]
    shapes += [traces.model_sites[n]["fn"].batch_shape for n in picked]
    choices = traces.choices(*shapes)
    for name in choices:
        inside = [f.name for f in _frames(traces.guide_sites[name])]
        if not inside or not set(inside) <= set(plates):
            where = f"in plates {inside}" if inside else "outside the data plate"
            raise ValueError(
                f"site {name!r} is enumerated {where}, so a row of plate {tuple(plates)} does not "
                "have one value of it: leave the sites that depend on it out with sites=, or use "
                "an objective without a divergence, such as BetaVAE()"
            )
    return choices


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


def _is_masked(fn: Any) -> bool:
    return isinstance(fn, MaskedDistribution) or (
        isinstance(fn, Independent) and _is_masked(fn.base_dist)
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
