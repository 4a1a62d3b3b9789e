"""Draws of a pair, laid out and scored."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.diagnostics.sites import Layout
from ppl_vae.program.sites import Site

__all__ = ["Draws", "elementwise", "same_densities", "scored", "valued"]


@dataclass
class Draws:
    """Draws of a pair, every tensor in the layout of `ppl_vae.diagnostics.sites`, on the CPU.

    Attributes:
        values: value of each latent, missing, deterministic and (if asked) observed site.
        log_p: log-density under the model of each latent, observed and factor site, nats.
        log_q: log-density under the guide of all that it samples and observes, nats; empty where
            the guide has no density.
        elements: log-density of each element of the observed sites, nats, where it was asked for.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    log_p: dict[str, Tensor] = field(default_factory=dict)
    log_q: dict[str, Tensor] = field(default_factory=dict)
    elements: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def gathered(
        blocks: "Iterable[tuple[int, Tensor | None, Draws]]", draws: int, size: int
    ) -> "Draws":
        """Blocks put where they belong, in the memory of the whole and one block.

        Args:
            blocks: the first of their draws, their data or None for all, and themselves.
            draws: of the whole.
            size: data of the whole.
        """
        whole = Draws()
        for start, rows, block in blocks:
            for field_ in fields(block):
                kept = getattr(whole, field_.name)
                for name, part in getattr(block, field_.name).items():
                    if name not in kept:
                        rest = part.shape[1:] if rows is None else (size, *part.shape[2:])
                        kept[name] = part.new_empty((draws, *rest))
                    place = slice(start, start + len(part))
                    kept[name][place if rows is None else (place, rows)] = part
        return whole

    @staticmethod
    def cat(parts: "list[Draws]", dim: int = 0) -> "Draws":
        """Joins blocks of draws (`dim=0`) or of data (`dim=1`)."""
        tables = [f.name for f in fields(Draws)]
        joined = {
            t: {k: torch.cat([getattr(p, t)[k] for p in parts], dim) for k in getattr(parts[0], t)}
            for t in tables
        }
        return Draws(**joined)


def valued(sites: Mapping[str, Site], layouts: Iterable[Layout], count: int) -> dict[str, Tensor]:
    """The values of some sites of a run of `count` draws, laid out, on the CPU."""
    return {site.name: site.lay(sites[site.name].value, count).cpu() for site in layouts}


def scored(sites: Mapping[str, Site], layouts: Iterable[Layout], count: int) -> dict[str, Tensor]:
    """Their log-densities in nats, with masks and without scales.

    A scale says how much a term counts in a loss; the density of the model is not changed by it.
    """
    return {
        site.name: site.lay(sites[site.name].log_density(), count, 0).cpu().double()
        for site in layouts
    }


def elementwise(
    sites: Mapping[str, Site], layouts: Iterable[Layout], count: int
) -> dict[str, Tensor]:
    """The log-densities of the single elements of some sites, in nats, with masks.

    Raises:
        ValueError: for a site whose elements are not independent given the latents.
    """
    found = {}
    for layout in layouts:
        site = sites[layout.name]
        fn = site.fn
        while isinstance(fn, torch.distributions.Independent):
            fn = fn.base_dist
        if fn.event_shape:
            raise ValueError(
                f"site {site.name!r} has no log-density of single elements: its "
                f"{type(fn).__name__} is one of all of them; use log_likelihood='conditional'"
            )
        mask = site.mask
        if isinstance(mask, Tensor):
            mask = mask.reshape(mask.shape + (1,) * layout.event_dim)
        log_p = scale_and_mask(fn.log_prob(site.value), 1.0, mask)
        found[site.name] = layout.lay(log_p, count).cpu()
    return found


def same_densities(one: Draws, other: Draws, draws: Sequence[int]) -> bool:
    """Whether the densities of some draws of another run are those of one."""
    both = [(v, other.log_p[k]) for k, v in one.log_p.items()]
    both += [(v, other.log_q[k]) for k, v in one.log_q.items()]
    return all(torch.allclose(v, w[draws], rtol=1e-3, atol=1e-3, equal_nan=True) for v, w in both)
