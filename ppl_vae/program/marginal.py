r"""Model sites that are summed over, and the densities of what depends on them.

A discrete model site marked `infer={"enumerate": "parallel"}` that the guide does not sample takes
all its values at once, as under `pyro.infer.TraceEnum_ELBO`. With $k$ for all such sites, the
latents and observations that depend on them have the densities

$$\log p(z) = \log \sum_k p(k, z), \qquad \log p(x \mid z) = \log \sum_k p(k, z, x) - \log p(z),$$

by Pyro's own message passing (`pyro.ops.contract`), which follows plates and `pyro.markov`. Of
observations that share such a site the first carries the density of all, and the others 0; so do
latents in the same plates.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from opt_einsum import get_symbol  # type: ignore[import-untyped]
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from torch import Tensor

from ppl_vae.program.agreement import same
from ppl_vae.program.dimensions import dimension, variables
from ppl_vae.program.sites import Site, Summed

__all__ = ["is_marked", "marginalise"]

Ordinal = frozenset[str]


def is_marked(site: Site) -> bool:
    """Whether a site is marked for parallel enumeration, over all the values that it has."""
    marked = site.infer.get("enumerate") == "parallel" and "num_samples" not in site.infer
    return marked and bool(getattr(site.fn, "has_enumerate_support", False))


def marginalise(sites: Mapping[str, Site], guide: Collection[str]) -> dict[str, Site]:
    """The model's sites with those that it sums over marked as such, and summed out of the others.

    Args:
        sites: of a run of the model, in their order. Where it enumerated nothing no density is
            changed.
        guide: the names of the guide's sites.

    Raises:
        ValueError: if sites that are summed together are scaled unlike each other.
    """
    found = dict(sites)
    for name, site in sites.items():
        drawn = site.role in ("latent", "missing") and name not in guide
        if drawn and is_marked(site):
            found[name] = replace(site, role="marginalised")
    summed = [s for s in found.values() if s.role == "marginalised" and dimension(s) is not None]
    if summed:
        others = [s for s in found.values() if s.role in ("observed", "factor") or s.name in guide]
        for name, density in _Sum(summed, others, variables(found)).densities().items():
            found[name] = replace(found[name], summed=density)
    return found


@dataclass
class _Factor:
    site: Site
    ordinal: Ordinal
    log_density: Tensor

    @property
    def symbols(self) -> set[str]:
        dims: str = self.log_density._pyro_dims  # type: ignore[attr-defined]
        return set(dims)


class _Sum:
    """The factors of one run that depend on sites to sum over."""

    def __init__(
        self,
        summed: Sequence[Site],
        others: Sequence[Site],
        variables: Mapping[str, Mapping[int, int]],
    ) -> None:
        self._variables = variables
        self._plates: dict[str, str] = {}
        self._dims: dict[str, int] = {}
        # A masked choice still has a distribution, which adds up to 1.
        self._summed = [self._factor(site.unmasked()) for site in summed]
        own = {site.name: dimension(site) for site in summed}
        self._over = {get_symbol(1 + 2 * variables[n][d]) for n, d in own.items() if d is not None}
        mixed = [factor for factor in map(self._factor, others) if factor.symbols & self._over]
        self._latent = [f for f in mixed if not f.site.is_observed]
        self._observed = [f for f in mixed if f.site.is_observed]
        first = self._summed[0].site
        for site in [*summed, *(factor.site for factor in mixed)]:
            if not same(first.scale, site.scale):
                raise ValueError(
                    f"sites {first.name!r} and {site.name!r}, summed together, are scaled unlike "
                    "each other: give both the same poutine.scale and plates"
                )

    def densities(self) -> dict[str, Summed]:
        """By site, what it carries: latents of fewer plates first, then the observed given all."""
        found: dict[str, Summed] = {}
        before, total = list[_Factor](), dict[Ordinal, Tensor]()
        by_plates: dict[Ordinal, list[_Factor]] = {}
        for factor in sorted(self._latent, key=lambda f: len(f.ordinal)):
            by_plates.setdefault(factor.ordinal, []).append(factor)
        for group in [*by_plates.values(), self._observed]:
            if group:
                before = before + group
                now = self._contracted(before)
                found |= self._carried(group, {t: now[t] - total.get(t, 0) for t in now})
                total = now
        return found

    def _factor(self, site: Site) -> _Factor:
        symbols: dict[int, str] = {}
        inside = [*site.plates, *([] if site.draws is None else [site.draws])]
        for plate in inside:
            symbols[plate.dim] = self._plates.setdefault(
                plate.name, get_symbol(2 * len(self._plates))
            )
        ordinal = frozenset(symbols.values())
        for dim, number in self._variables[site.name].items():
            symbols[dim] = get_symbol(1 + 2 * number)
        self._dims |= {symbol: dim for dim, symbol in symbols.items()}
        value = _expanded(site.log_density(), site)
        return _Factor(site, ordinal, packed.pack(value, symbols))

    def _contracted(self, factors: Iterable[_Factor]) -> dict[Ordinal, Tensor]:
        r"""$\log \sum_k$ of the factors' product, by the plates that are left, by batch entry."""
        tree: OrderedDict[Ordinal, list[Tensor]] = OrderedDict()
        for factor in [*self._summed, *factors]:
            tree.setdefault(factor.ordinal, []).append(factor.log_density)
        left = contract_tensor_tree(tree, set(self._over))
        return {
            ordinal: torch.stack(
                torch.broadcast_tensors(*(packed.unpack(t, self._dims) for t in terms))
            ).sum(0)
            for ordinal, terms in left.items()
        }

    def _carried(
        self, group: Sequence[_Factor], totals: Mapping[Ordinal, Tensor]
    ) -> dict[str, Summed]:
        like = next(iter(totals.values()))
        values = {f.site.name: like.new_zeros(()) for f in group}
        names: dict[str, tuple[str, ...]] = {f.site.name: () for f in group}
        for ordinal, total in totals.items():
            inside = [factor for factor in group if ordinal <= factor.ordinal]
            if inside:
                carrier = inside[0].site
                # One number for all entries of plates that the sum has joined: spread evenly.
                joined = [p.size for p in carrier.plates if self._plates[p.name] not in ordinal]
                values[carrier.name] = values[carrier.name] + total / prod(joined)
                names[carrier.name] = tuple(factor.site.name for factor in inside)
        return {
            f.site.name: Summed(_expanded(values[f.site.name], f.site), names[f.site.name])
            for f in group
        }


def _expanded(values: Tensor, site: Site) -> Tensor:
    """Values by batch entry with every plate at its size."""
    inside = [*site.plates, *([] if site.draws is None else [site.draws])]
    shape = [1] * max([-plate.dim for plate in inside], default=0)
    for plate in inside:
        shape[plate.dim] = plate.size
    return values.expand(torch.broadcast_shapes(values.shape, tuple(shape)))
