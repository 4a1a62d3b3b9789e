"""Running a model/guide pair on blocks of rows and reading off its terms datum by datum."""

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.evaluation.programs import Data, Program, as_rows, density, evaluating
from ppl_vae.evaluation.sites import (
    LeaveAfter,
    closed_kl,
    is_unobserved,
    latent_nodes,
    plate_sizes,
)

__all__ = ["Pair", "Terms"]


class Terms:
    """The log-density terms of one draw of the guide, per row of data, in nats."""

    def __init__(self, pair: "Pair", guide: poutine.Trace, model: poutine.Trace | None):
        self.pair = pair
        self.guide = guide
        self.model = model

    def _sum(self, trace: poutine.Trace, names: list[str]) -> Tensor:
        return sum((self.pair.log_prob(trace.nodes[name]) for name in names), torch.zeros(()))

    @property
    def log_q(self) -> Tensor:
        """log q(z | x), auxiliary guide sites included."""
        return self._sum(self.guide, self.pair.guide_sites)

    @property
    def log_prior(self) -> Tensor:
        assert self.model is not None
        return self._sum(self.model, self.pair.latents)

    @property
    def log_likelihood(self) -> Tensor:
        assert self.model is not None
        self.pair.require_observed()
        return self._sum(self.model, self.pair.observed)

    @property
    def kl(self) -> Tensor:
        """KL(q(z | x) || p(z)): in closed form where that is right, else one sampled log-ratio."""
        assert self.model is not None
        if not self.pair.analytic:
            return self.log_q - self.log_prior
        total = torch.zeros(())
        for name in self.pair.latents:
            q, p = self.guide.nodes[name], self.model.nodes[name]
            kl = closed_kl(q["fn"], p["fn"])
            if kl is None:
                term = self.pair.log_prob(q) - self.pair.log_prob(p)
            else:
                term = self.pair.per_row(kl, p)
            total = total + term
        return total

    @property
    def codes(self) -> Tensor:
        """The joint of the codes, `(n, d)`."""
        return self.pair.joint(self.code_nodes)

    @property
    def code_nodes(self) -> list[dict[str, Any]]:
        return [self.guide.nodes[name] for name in self.pair.codes]

    @property
    def latent_nodes(self) -> list[dict[str, Any]]:
        return [self.guide.nodes[name] for name in self.pair.latents]


def _is_implicit(site: dict[str, Any]) -> bool:
    try:
        density(site["fn"], site["value"])
    except NotImplementedError:
        return True
    return False


class Pair:
    """A model and guide with the plate over the data found, and its sites told apart.

    Local latents are the guide's unobserved sites in that plate that the model has too; those
    that are not the missing half of an observed site are codes. Latents outside the plate
    (globals) are drawn from the guide once and held for the whole evaluation.

    Raises:
        ValueError: for a pair without a plate over the rows, a model latent the guide lacks, or a
            latent whose shapes differ.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        x: Data,
        plate: str | None = None,
    ):
        self.rows = as_rows(x)
        self._model, self._guide = model, guide
        self.fixed: dict[str, Tensor] = {}
        with evaluating(model, guide):
            few = self.take(slice(0, 2))
            guide_trace = poutine.trace(guide).get_trace(*few)
            self.plate = self._find_plate(guide_trace, plate)
            sites = latent_nodes(guide_trace)
            self.fixed = {k: s["value"] for k, s in sites.items() if not self._local(s)}
            model_trace = poutine.trace(self.model).get_trace(*few)
        self._read(guide_trace, model_trace)
        self.few = few

    def __len__(self) -> int:
        return len(self.rows[0])

    @property
    def model(self) -> Program:
        """The model with the globals held."""
        return poutine.condition(self._model, self.fixed) if self.fixed else self._model

    @property
    def guide(self) -> Program:
        """The guide with the globals held."""
        return poutine.condition(self._guide, self.fixed) if self.fixed else self._guide

    @property
    def note(self) -> str:
        held = f"conditional on one draw of {', '.join(self.fixed)} from the guide"
        return held if self.fixed else ""

    def take(self, index: slice | Tensor, draws: int = 1) -> tuple[Tensor, ...]:
        """The arguments at some rows, each row repeated `draws` times in a row."""
        rows = tuple(r[index] for r in self.rows)
        return tuple(r.repeat_interleave(draws, 0) for r in rows) if draws > 1 else rows

    def _find_plate(self, trace: poutine.Trace, asked: str | None) -> str:
        # A plate over the data follows the number of rows handed in; one that is as long by
        # accident (28 time steps, 28 rows) does not.
        n = min(len(self), 2)
        if n == 2:
            single = poutine.trace(self._guide).get_trace(*self.take(slice(0, 1)))
        sizes = [plate_sizes(trace)] + ([plate_sizes(single)] if n == 2 else [])
        follows = [p for p, size in sizes[0].items() if size == n]
        follows = [p for p in follows if n == 1 or sizes[1].get(p) == 1]
        if asked is not None and asked not in follows:
            raise ValueError(
                f"plate {asked!r} is not over the rows of the data: the guide's plates are "
                f"{sizes[0] or 'none'} (name and size) for {n} rows"
            )
        if asked is not None:
            return asked
        if len(follows) > 1 and "data" in follows:
            return "data"
        if len(follows) != 1:
            found = f"plates {sizes[0]} (name and size) for {n} rows" if sizes[0] else "no plate"
            raise ValueError(
                f"the guide has {found}, so its data cannot be told apart: put the local latents "
                'of model and guide under one `with pyro.plate("data", len(x)):`'
            )
        return follows[0]

    def _local(self, site: dict[str, Any]) -> bool:
        return any(f.name == self.plate and f.vectorized for f in site["cond_indep_stack"])

    def _read(self, guide: poutine.Trace, model: poutine.Trace) -> None:
        local = {k: s for k, s in latent_nodes(guide).items() if self._local(s)}
        latent = latent_nodes(model)
        for name, site in latent.items():
            if name not in local and name not in self.fixed and not is_unobserved(name, model):
                raise ValueError(f"the model's latent {name!r} has no site in the guide")
            if name in local and not self._local(site):
                raise ValueError(
                    f"latent {name!r} is in plate {self.plate!r} in the guide but not in the model"
                )
        self.guide_sites = list(local)
        self.latents = [name for name in local if name in latent]
        if not self.latents:
            raise ValueError(f"the guide has no latent of the model in plate {self.plate!r}")
        for name in self.latents:
            q, p = local[name]["fn"].shape(), latent[name]["fn"].shape()
            if q != p:
                raise ValueError(
                    f"latent {name!r} has shape {tuple(p)} in the model and {tuple(q)} in the "
                    f"guide (for {len(self.take(slice(0, 2))[0])} rows)"
                )
        # values missing from the data are no code of them, unless there is nothing else
        known = [name for name in self.latents if not is_unobserved(name, model)]
        self.codes = known or self.latents
        self.observed = [
            name
            for name, site in model.nodes.items()
            if site["type"] == "sample"
            and site["is_observed"]
            and not site_is_subsample(site)
            and self._local(site)
            and name not in self.fixed
        ]
        # A closed-form KL per site is right where no site's model parents are its guide
        # descendants; equal order of the sites is enough for that.
        in_model = [name for name in latent if name in self.latents]
        self.analytic = self.guide_sites == self.latents == in_model
        self.deterministic = self.guide_sites == self.latents and any(
            type(local[name]["fn"]).__name__ == "Delta" for name in self.latents
        )
        self.implicit = any(_is_implicit(site) for site in local.values())
        self.sizes = {name: self.flatten(s, s["value"]).shape[1] for name, s in local.items()}

    def require_observed(self) -> None:
        if not self.observed:
            raise ValueError(f"the model observes nothing in plate {self.plate!r}")

    @property
    def slices(self) -> dict[str, slice]:
        """Where each site stands among the columns of the codes."""
        ends = torch.tensor([0] + [self.sizes[k] for k in self.codes]).cumsum(0).tolist()
        return {k: slice(a, b) for k, a, b in zip(self.codes, ends, ends[1:], strict=False)}

    @property
    def dim(self) -> int:
        return sum(self.sizes[k] for k in self.codes)

    def blocks(self, block: int, draws: int = 1) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        """Slices of at most `block` rows over draws, each row repeated `draws` times in a row."""
        size = max(1, block // draws)
        for start in range(0, len(self), size):
            index = slice(start, min(start + size, len(self)))
            yield index, self.take(index, draws)

    def run_guide(self, rows: tuple[Tensor, ...]) -> Terms:
        return Terms(self, self.trace_guide(rows), None)

    def trace_guide(
        self, rows: tuple[Tensor, ...], values: poutine.Trace | None = None
    ) -> poutine.Trace:
        """The guide's trace, at the latents of another trace where one is given."""
        guide = self.guide
        if values is not None:
            guide = poutine.replay(guide, trace=self._without_fixed(values))
        return poutine.trace(guide).get_trace(*rows)

    def run(self, rows: tuple[Tensor, ...], prior_only: bool = False) -> Terms:
        """One draw from the guide for each row, scored under both; see `trace_model`."""
        guide = self.trace_guide(rows)
        return Terms(self, guide, self.trace_model(rows, guide, prior_only))

    def _without_fixed(self, trace: poutine.Trace) -> poutine.Trace:
        local = trace.copy()
        for name in self.fixed:
            if name in local:
                local.remove_node(name)
        return local

    def trace_model(
        self, rows: tuple[Tensor, ...], guide: poutine.Trace | None, prior_only: bool = False
    ) -> poutine.Trace:
        """The model's trace with the guide's latents, or ancestral without a guide.

        With `prior_only` the model is left once its latents are drawn: no decoder call.
        """
        model = self.model
        if guide is not None:
            model = poutine.replay(model, trace=self._without_fixed(guide))
        if not prior_only:
            return poutine.trace(model).get_trace(*rows)
        tracer = poutine.trace()
        with suppress(LeaveAfter.Done), tracer, LeaveAfter(self.latents):
            model(*rows)
        return tracer.trace

    def prior_draws(self, rows: tuple[Tensor, ...]) -> Tensor:
        """One draw of the codes from the model for each row, `(n, d)`; no decoder call."""
        trace = self.trace_model(rows, None, prior_only=True)
        return self.joint([trace.nodes[name] for name in self.codes])

    def joint(self, sites: list[dict[str, Any]]) -> Tensor:
        """The values of sites side by side, `(n, d)`."""
        return torch.cat([self.flatten(s, s["value"]) for s in sites], -1)

    @cached_property
    def independent(self) -> bool:
        """Whether q(z_site | x) is the same whatever noise the guide drew elsewhere."""
        if self.implicit:  # densities would tell
            return len(self.guide_sites) == 1
        first, second = (self.run_guide(self.few).latent_nodes for _ in range(2))
        for a, b in zip(first, second, strict=True):
            if not torch.allclose(
                a["fn"].log_prob(a["value"]), b["fn"].log_prob(a["value"]), rtol=1e-4, atol=1e-4
            ):
                return False
        return True

    def dim_of(self, site: dict[str, Any]) -> int:
        return next(f.dim for f in site["cond_indep_stack"] if f.name == self.plate)

    def per_row(self, values: Tensor, site: dict[str, Any]) -> Tensor:
        """Sums a tensor of a site's batch shape over all but the data plate, masked, unscaled."""
        dim = self.dim_of(site)
        if site["mask"] is not None:
            values = torch.where(torch.as_tensor(site["mask"], device=values.device), values, 0.0)
        if values.dim() < -dim:
            values = values.expand(site["fn"].batch_shape)
        values = values.movedim(dim, 0)
        return values.reshape(len(values), -1).sum(-1)

    def log_prob(self, site: dict[str, Any]) -> Tensor:
        """The site's log-density per row: plate scales are left out, masks are kept."""
        fn, value = site["fn"], site["value"]
        # A latent outside the other program's support has density zero; data outside the
        # likelihood's are a mistake, which the distribution's own check tells.
        return self.per_row(
            fn.log_prob(value) if site["is_observed"] else density(fn, value), site
        )

    def flatten(self, site: dict[str, Any], value: Tensor) -> Tensor:
        """A tensor of a site's batch and event shape as `(n, size)`."""
        value = (
            value.expand(site["fn"].shape()) if value.dim() < len(site["fn"].shape()) else value
        )
        value = value.movedim(self.dim_of(site) - site["fn"].event_dim, 0)
        return value.reshape(len(value), -1)
