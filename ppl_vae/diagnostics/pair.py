"""Running a model and its guide together: many draws at once, per-datum densities, simulation."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.diagnostics.sites import Layout
from ppl_vae.evaluation.programs import Data, Program, evaluating
from ppl_vae.program import Reading, read
from ppl_vae.program.handlers import Unobserve
from ppl_vae.program.plates import PlateName, check_full
from ppl_vae.program.sites import DRAWS, Site, is_point, read_sites

__all__ = ["Draws", "Pair", "seeded"]


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


class Pair:
    """A model, its guide and their arguments, looked at once and checked.

    Rows are the entries of the data plate, by the rule of `ppl_vae.program`. Where no latent is
    in a plate with an observation, the whole data set is one row.

    Args:
        model, guide: Pyro callables of the same arguments. Their modules are run in eval mode.
        x: rows of data, or the tuple of the callables' arguments.
        plate: name of the data plate. Needed only where several would do.

    Raises:
        NoDataPlate: if there is no data plate, or more than one.
        ValueError: if a plate is subsampled, or a latent of the model is missing from the guide
            or has another shape there.
    """

    def __init__(
        self, model: Program, guide: Program, x: Data, plate: PlateName | None = None
    ) -> None:
        self.args: tuple[Any, ...] = x if isinstance(x, tuple) else (x,)
        self._owners = (model, guide)
        self.model = model
        # A site that the guide would enumerate is sampled here.
        self.guide = poutine.infer_config(guide, config_fn=lambda _: {"enumerate": None})
        with self.still(), torch.random.fork_rng():
            reading = read(model, self.guide, self.args, check_shapes=True)
        check_full(reading.guide_trace, reading.model_trace)
        self.plate = _row_plate(reading, plate)
        outer, inner = reading.model_sites, reading.guide_sites
        sizes: dict[str, int] = {}
        for site in (*outer.values(), *inner.values()):
            for around in site.plates:
                sizes[around.name] = max(around.size, sizes.get(around.name, 1))
        self.size = 1 if self.plate is None else sizes[self.plate]
        self.sites = {k: Layout.of(site, self.plate, sizes) for k, site in outer.items()}
        self.guide_sites = {
            k: Layout.of(site, self.plate, sizes)
            for k, site in inner.items()
            if site.role != "deterministic"
        }
        laid = {k: site.lay(outer[k].value, 1)[0] for k, site in self.sites.items()}
        self.observed = [k for k, site in self.sites.items() if site.role == "observed"]
        self.values = {k: laid[k].cpu() for k in self.observed}
        self.raw = {k: outer[k].value for k in self.observed}
        self.latents = reading.latent
        self.locals = [
            k for k in self.latents if self.sites[k].local and outer[k].role != "missing"
        ]
        self.globals = [k for k in self.latents if not self.sites[k].local]
        self.points = [k for k in self.guide_sites if is_point(inner[k].fn)]
        sites = [*self.sites.values(), *self.guide_sites.values()]
        self.nesting = max(site.depth for site in sites)
        # The rows that one draw runs.
        self.width = self.size
        if self.plate is None:
            self.width = max(prod(p.size for p in site.plates) for site in sites)
        self.held: dict[str, Tensor] = {}
        self._vectorise: bool | None = None

    @property
    def device(self) -> torch.device:
        """Where the arguments are."""
        tensors = (a for a in self.args if isinstance(a, Tensor))
        return next((a.device for a in tensors), torch.device("cpu"))

    @property
    def given(self) -> Program:
        """The model given the latents held."""
        model: Program = poutine.condition(self.model, data=self.held)
        return model

    def replace(self, **changes: Any) -> "Pair":
        """The same pair with another guide or args of the same sites, not looked at."""
        other = object.__new__(Pair)
        other.__dict__.update(self.__dict__, **changes)
        return other

    # Some of the data

    def rows(self, rows: Tensor) -> "Pair":
        """The pair on some of the data.

        Raises:
            ValueError: if the data plate does not follow the arguments' first dimension.
        """
        if len(rows) == self.size == 1:
            return self
        args = tuple(a[rows.to(a.device)] if self.is_data(a) else a for a in self.args)
        problem = (
            f"cannot run on {len(rows)} of {self.size} data: the plate {self.plate!r} and the "
            "guide must take their size from the arguments, as in pyro.plate('data', len(x))"
        )
        try:
            part = Pair(*self._owners, args, self.plate)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(problem) from error
        if part.size != len(rows):
            raise ValueError(problem)
        part._vectorise = self._vectorise
        return part

    def is_data(self, arg: object) -> bool:
        """Whether an argument has one row for each datum."""
        return (
            self.plate is not None
            and isinstance(arg, Tensor)
            and arg.dim() > 0
            and len(arg) == self.size
        )

    def is_observed(self, arg: Tensor) -> bool:
        """Whether an argument holds an observed site's values, in whatever shape."""
        flat = [v.flatten() for v in self.raw.values() if v.numel() == arg.numel()]
        return any(bool((arg.flatten().to(v.device) == v).all()) for v in flat)

    def parts(self, block: int) -> "Iterator[tuple[Tensor, Pair]]":
        """(indices, pair) for blocks of at most `block` data, the whole where data share draws."""
        whole = torch.arange(self.size)
        sites = [*self.sites.values(), *self.guide_sites.values()]
        if self.size <= block or not all(site.local for site in sites):
            yield whole, self
            return
        self.vectorise  # noqa: B018  tried once, for all parts
        try:
            pieces = [(rows, self.rows(rows)) for rows in whole.split(block)]
        except ValueError:
            pieces = [(whole, self)]
        yield from pieces

    # Runs

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

    def shared(self) -> poutine.Trace:
        """One draw of what the guide samples outside the data plate, for `holding`."""
        with self.still():
            trace = poutine.trace(self.guide).get_trace(*self.args)
        kept = {
            k
            for k, site in self.guide_sites.items()
            if not site.local and site.role not in ("observed", "factor")
        }
        for name in [k for k in trace.nodes if k not in kept]:
            trace.remove_node(name)
        return trace

    def holding(self, shared: poutine.Trace) -> "Pair":
        """The pair with the latents outside the data plate held at one draw.

        The densities of local sites are given that draw then.
        """
        held = {k: shared.nodes[k]["value"] for k in self.globals}
        return self.replace(held=held, guide=poutine.replay(self.guide, trace=shared))

    def posterior(self, draws: int, *, block: int, predict: bool = False) -> Iterator[Draws]:
        """Draws from the guide, scored under both, in blocks of `block` rows (draws times data).

        Args:
            predict: draw the observed sites, too.
        """

        def run(count: int, many: bool) -> Draws:
            reading = self.read(count, many)
            out = self._laid(reading.model_sites, count, reading.guide_sites)
            if predict:
                model = Unobserve(self.observed)(reading.without(self.observed))
                with self.many(count, many):
                    trace = poutine.trace(model).get_trace(*self.args)
                out.values |= self._values(trace, self.observed, count)
            return out

        yield from self._blocks(run, draws, block)

    def prior(self, draws: int, *, block: int) -> Iterator[Draws]:
        """Draws of the latent, deterministic and observed sites from the model, not scored."""

        def run(count: int, many: bool) -> Draws:
            with self.many(count, many):
                trace = poutine.trace(Unobserve(self.observed)(self.model)).get_trace(*self.args)
            names = [k for k, site in self.sites.items() if site.role != "factor"]
            return Draws(self._values(trace, names, count))

        yield from self._blocks(run, draws, block)

    def simulate(self) -> tuple[Draws, dict[str, Tensor]]:
        """One new data set from the model: its latents and log-density, and the observed values
        as Pyro holds them."""
        with self.still():
            trace = poutine.trace(Unobserve(self.observed)(self.given)).get_trace(*self.args)
            truth = self._laid(read_sites(trace), 1)
            return truth, {k: trace.nodes[k]["value"] for k in self.observed}

    def score(self, values: Mapping[str, Tensor], *, many: bool) -> Draws:
        """Log-densities under the model at given latents, laid out; draws one at a time if not
        `many`. What is missing is left out unless it is given."""
        count = len(next(iter(values.values())))
        if not many and count > 1:
            single = [{k: v[i : i + 1] for k, v in values.items()} for i in range(count)]
            return Draws.cat([self.score(one, many=False) for one in single])
        latents = {k: self._at(k, v, many) for k, v in values.items()}
        with self.still(), self.many(count, many):
            model = poutine.condition(self.given, data=latents)
            trace = poutine.trace(model).get_trace(*self.args)
        out = self._laid(read_sites(trace), count)
        for name in self.latents:
            if self.sites[name].role == "missing" and name not in values:
                del out.log_p[name]
        return out

    def _at(self, name: str, value: Tensor, many: bool) -> Tensor:
        """Values laid out, as a statement takes them: with the draws' dimension if `many`."""
        site = self.sites[name]
        value = site.unlay(value).to(self.device)
        if not many:
            return value.reshape(site.shape)
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

    def _values(self, trace: poutine.Trace, names: Iterable[str], count: int) -> dict[str, Tensor]:
        return {k: self.sites[k].lay(trace.nodes[k]["value"], count).cpu() for k in names}

    def _laid(
        self, model: Mapping[str, Site], count: int, guide: Mapping[str, Site] | None = None
    ) -> Draws:
        out = Draws()
        for name, site in self.sites.items():
            if site.role in ("latent", "deterministic", "missing"):
                out.values[name] = site.lay(model[name].value, count).cpu()
            if name in self.latents or site.role in ("observed", "factor"):
                out.log_p[name] = _density(site, model[name], count)
        try:
            for name, run in (guide or {}).items():
                if name in self.guide_sites:
                    out.log_q[name] = _density(self.guide_sites[name], run, count)
        except NotImplementedError:  # an implicit guide
            out.log_q = {}
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
        draws = next(self.posterior(2, block=2 * self.width, predict=True))
        if len(next(iter(draws.values.values()))) != 2:
            return False
        single = self.score({k: draws.values[k] for k in self.latents}, many=False)
        if not all(_close(draws.log_p[k], v) for k, v in single.log_p.items()):
            return False
        if not draws.log_q or any(s.role == "auxiliary" for s in self.guide_sites.values()):
            # The point masses of an automatic guide follow from the site they are made of.
            return True
        names = [k for k in self.latents if k not in self.points]
        for i in range(2):
            fixed = {k: self._at(k, draws.values[k][i : i + 1], False) for k in names}
            trace = poutine.trace(poutine.condition(self.guide, data=fixed)).get_trace(*self.args)
            guide = read_sites(trace)
            if not all(
                _close(_density(self.guide_sites[k], guide[k], 1)[0], draws.log_q[k][i])
                for k in draws.log_q.keys() - set(self.points)
            ):
                return False
        return True


def _row_plate(reading: Reading, plate: PlateName | None) -> str | None:
    """The data plate; None where no latent belongs to a datum, so that all data are one row."""
    if not reading.latent:
        raise ValueError("the model has no latent site")
    if plate is None:
        observed = [site for site in reading.model_sites.values() if site.is_observed]
        data = {name for site in observed for name in site.dims}
        latent = [reading.model_sites[k] for k in reading.latent]
        latent += [reading.guide_sites[k] for k in reading.latent]
        if data and not any(site.sequential or data & site.dims.keys() for site in latent):
            return None
    names = reading.plates(plate)
    if len(names) > 1:
        raise ValueError(f"plates {list(names)} are several: diagnostics take the rows of one")
    return names[0]


def _density(layout: Layout, site: Site, count: int) -> Tensor:
    # A scale says how much a term counts in a loss; the density is not changed by it.
    return layout.lay(site.log_density(), count, 0).cpu().double()


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draws within follow `seed` and leave the caller's generator alone; None uses the latter."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
