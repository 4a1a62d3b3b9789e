"""Runs of a model and its guide: many draws at once, scored under both, and data simulated."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Self

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.diagnostics.draws import Draws, elementwise, same_densities, scored, valued
from ppl_vae.diagnostics.sites import Layout
from ppl_vae.evaluation.programs import Program, evaluating
from ppl_vae.program.handlers import SetValues, Unobserve, enumerated
from ppl_vae.program.marginal import marginalise
from ppl_vae.program.reading import Reading
from ppl_vae.program.replays import without
from ppl_vae.program.running import read
from ppl_vae.program.sites import DRAWS, Site, read_sites

__all__ = ["Runs"]

Sites = Mapping[str, Site]


class Runs:
    """A model and its guide with their arguments, to be run.

    Args:
        model, guide: Pyro callables of the same arguments. Their modules are run in eval mode.
        args: the arguments.

    Attributes:
        sites: the layouts of the model's sites.
        guide_sites: those of what the guide samples and observes.
        latents: names of the model's sites that the guide samples.
        observed: names of the observed variables.
        marginalised: names of the model's sites that it sums over.
        points: names of the guide's sites that are point masses.
        nesting: the number of batch dimensions that plates take.
        width: the number of rows that one draw runs.
        device: where the latents are.
        held: latents that the model is given.
    """

    sites: dict[str, Layout]
    guide_sites: dict[str, Layout]
    latents: list[str]
    observed: list[str]
    marginalised: list[str]
    points: list[str]
    nesting: int
    width: int
    device: torch.device

    def __init__(self, model: Program, guide: Program, args: tuple[Any, ...]) -> None:
        self.args = args
        self._owners = (model, guide)
        self.model = model
        # A site that the guide would enumerate is sampled here.
        self.guide = poutine.infer_config(guide, config_fn=lambda _: {"enumerate": None})
        self.held: dict[str, Tensor] = {}
        self._vectorise: bool | None = None

    @property
    def given(self) -> Program:
        """The model given the latents held."""
        model: Program = poutine.condition(self.model, data=self.held)
        return model

    def replace(self, **changes: Any) -> Self:
        """The same pair with another guide or args of the same sites, not looked at."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **changes)
        return other

    def still(self) -> AbstractContextManager[None]:
        """Eval mode and no gradients, within."""
        return evaluating(*self._owners)

    def many(self, count: int, many: bool) -> Any:
        """The plate over `count` draws at once, if `many`."""
        return pyro.plate(DRAWS, count, dim=-1 - self.nesting) if many else nullcontext()

    def read(self, count: int, many: bool) -> Reading:
        """One run of `count` draws."""
        with self.many(count, many):
            return read(self.model, self.guide, self.args)

    def _run(self, model: Program) -> Sites:
        return read_sites(poutine.trace(model).get_trace(*self.args))

    def _scored(self, model: Program, many: bool) -> Sites:
        """A run of a model all of whose latents are given; what it sums over is summed out."""
        if not self.marginalised:
            return self._run(model)
        model = enumerated(model, self.nesting + many)
        return marginalise(self._run(model), self.guide_sites)

    def _predicted(self, reading: Reading, count: int, many: bool) -> dict[str, Tensor]:
        with self.many(count, many):
            run = self._run(Unobserve(self.observed)(without(reading, self.observed)))
        return valued(run, [self.sites[k] for k in self.observed], count)

    def posterior(
        self, draws: int, *, block: int, predict: bool = False, single: bool = False
    ) -> Iterator[Draws]:
        """Draws from the guide, scored under both, in blocks of `block` rows (draws times data).

        Args:
            draws: how many.
            block: rows at once.
            predict: draw the observed sites, too.
            single: score the elements of observed sites one by one, too.
        """

        def run(count: int, many: bool) -> Draws:
            reading = self.read(count, many)
            out = self._made(reading.model_sites, count, reading.guide_sites)
            if single:
                seen = [self.sites[k] for k in self.observed]
                out.elements = elementwise(reading.model_sites, seen, count)
            if predict:
                reading.check_drawn()
                out.values |= self._predicted(reading, count, many)
            return out

        yield from self._blocks(run, draws, block)

    def prior(self, draws: int, *, block: int) -> Iterator[Draws]:
        """Draws of the latent, deterministic and observed sites from the model, not scored."""

        def run(count: int, many: bool) -> Draws:
            with self.many(count, many):
                run = self._run(Unobserve(self.observed)(self.model))
            sites = [site for site in self.sites.values() if site.role != "factor"]
            return Draws(valued(run, sites, count))

        yield from self._blocks(run, draws, block)

    def simulate(self) -> tuple[Draws, dict[str, Tensor]]:
        """One new data set from the model: its latents and log-density, and the observed values
        as Pyro holds them."""
        with self.still():
            run = self._run(Unobserve(self.observed)(self.given))
            if self.marginalised:
                drawn = {k: run[k].value for k in [*self.latents, *self.observed]}
                scored = self._scored(poutine.condition(self.given, data=drawn), many=False)
                return self._made(scored, 1), {k: run[k].value for k in self.observed}
            return self._made(run, 1), {k: run[k].value for k in self.observed}

    def score(self, values: Mapping[str, Tensor], *, many: bool) -> Draws:
        """Log-densities under the model at given latents, laid out; draws one at a time if not
        `many`. What is missing is left out unless it is given."""
        count = len(next(iter(values.values())))
        if not many and count > 1:
            single = [{k: v[i : i + 1] for k, v in values.items()} for i in range(count)]
            return Draws.cat([self.score(one, many=False) for one in single])
        place = self._wide if many else self._plain
        latents = {k: place(k, v) for k, v in values.items()}
        with self.still(), self.many(count, many):
            run = self._scored(poutine.condition(self.given, data=latents), many)
        out = self._made(run, count)
        for name in self.latents:
            if self.sites[name].role == "missing" and name not in values:
                del out.log_p[name]
        return out

    def _wide(self, name: str, value: Tensor) -> Tensor:
        """Draws of a site laid out, as Pyro holds them with the draws' dimension."""
        site = self.sites[name]
        value = site.unlay(value).to(self.device)
        gap = 1 + self.nesting + site.event_dim - value.dim()
        return value.reshape(len(value), *(1,) * gap, *value.shape[1:])

    def _blocks(
        self, run: Callable[[int, bool], Draws], draws: int, block: int
    ) -> Iterator[Draws]:
        with self.still():
            many = self.vectorise
            step = max(1, block // self.width) if many else 1
            for start in range(0, draws, step):
                yield run(min(step, draws - start), many)

    def _made(self, run: Sites, count: int, guide: Sites | None = None) -> Draws:
        """A run of the model laid out and scored, and of the guide if there is one."""
        sites = self.sites.values()
        kept = [s for s in sites if s.role in ("latent", "deterministic", "missing")]
        scores = [s for s in sites if s.name in self.latents or s.role in ("observed", "factor")]
        out = Draws(valued(run, kept, count), scored(run, scores, count))
        with suppress(NotImplementedError):  # an implicit guide
            out.log_q = scored(guide or {}, self.guide_sites.values() if guide else (), count)
        return out

    def per_datum(self, terms: Mapping[str, Tensor], sites: Mapping[str, Layout]) -> Tensor:
        """Sum of the local terms for each draw and datum, (draw, n)."""
        return torch.stack(
            [v.reshape(*v.shape[:2], -1).sum(2) for k, v in terms.items() if sites[k].local]
        ).sum(0)

    # Many draws at once

    @property
    def vectorise(self) -> bool:
        """Whether two draws run at once score the same as one at a time: tried once.

        A network may take rows of one batch dimension only, or a model may sum over the wrong
        dimension, and then draws have to be run one by one. An error in the plain run has been
        raised before this is asked, so that an error here speaks of the extra dimension alone.
        """
        if self._vectorise is None:
            self._vectorise = True
            with self.still(), torch.random.fork_rng():
                try:
                    self._vectorise = self._vectorises()
                except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
                    self._vectorise = False
        return self._vectorise

    def _vectorises(self) -> bool:
        reading = self.read(2, many=True)
        both = self._made(reading.model_sites, 2, reading.guide_sites)
        self._predicted(reading, 2, many=True)
        drawn = self.sampled(reading, 2)
        return all(
            same_densities(self.at({k: v[i : i + 1] for k, v in drawn.items()}), both, [i])
            for i in range(2)
        )

    def sampled(self, reading: Reading, count: int) -> dict[str, Tensor]:
        """What the guide sampled, laid out, but for point masses: those of an automatic guide
        follow from the site that they are made of."""
        sites = [s for k, s in self.guide_sites.items() if k not in self.points]
        drawn = [site for site in sites if site.role not in ("observed", "factor")]
        return valued(reading.guide_sites, drawn, count)

    def at(self, values: Mapping[str, Tensor]) -> Draws:
        """One draw at given values, laid out, of what the guide samples, scored under both."""
        with SetValues({k: self._plain(k, v) for k, v in values.items()}):
            reading = self.read(1, many=False)
        return self._made(reading.model_sites, 1, reading.guide_sites)

    def _plain(self, name: str, value: Tensor) -> Tensor:
        """One draw of a site laid out, as Pyro holds it without the draws' dimension."""
        site = self.guide_sites.get(name) or self.sites[name]
        return site.unlay(value).reshape(site.shape).to(self.device)
