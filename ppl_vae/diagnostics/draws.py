"""Draws of a pair, laid out and scored."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ppl_vae.diagnostics.sites import Layout
from ppl_vae.program.sites import Site

__all__ = ["Draws", "same_densities", "scored", "valued"]


@dataclass
class Draws:
    """Draws of a pair, every tensor in the layout of `ppl_vae.diagnostics.sites`, on the CPU.

    Attributes:
        values: value of each latent, missing, deterministic and (if asked) observed site.
        log_p: log-density under the model of each latent, observed and factor site, nats.
        log_q: log-density under the guide of all that it samples and observes, nats; empty where
            the guide has no density.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    log_p: dict[str, Tensor] = field(default_factory=dict)
    log_q: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def cat(parts: "list[Draws]", dim: int = 0) -> "Draws":
        """Joins blocks of draws (`dim=0`) or of data (`dim=1`)."""
        tables = ("values", "log_p", "log_q")
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


def same_densities(one: Draws, other: Draws, draws: Sequence[int]) -> bool:
    """Whether the densities of some draws of another run are those of one."""
    both = [(v, other.log_p[k]) for k, v in one.log_p.items()]
    both += [(v, other.log_q[k]) for k, v in one.log_q.items()]
    return all(torch.allclose(v, w[draws], rtol=1e-3, atol=1e-3, equal_nan=True) for v, w in both)
