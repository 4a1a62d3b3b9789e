"""Running a model and its guide together: many draws at once, per-datum densities, simulation."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.diagnostics.checks import check_guide, data_plate
from ppl_vae.diagnostics.sites import Site, Uncondition, describe, is_point_mass, log_density
from ppl_vae.evaluation.programs import Data, Program, evaluating

__all__ = ["Draws", "Pair", "seeded"]

_PLATE = "_diagnostics_draws"


@dataclass
class Draws:
    """Draws of a pair, every tensor in the layout of `ppl_vae.diagnostics.sites`, on the CPU.

    Attributes:
        values: value of each latent, missing, deterministic and (if drawn) observed site.
        log_p: log-density under the model of each latent, observed and factor site, nats.
        log_q: log-density under the guide of each latent and auxiliary site, nats; empty where
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

    Args:
        model, guide: Pyro callables of the same arguments. Their modules are run in eval mode.
        x: rows of data, or the tuple of the callables' arguments.
        plate: name of the data plate. Needed only where several would do.

    Raises:
        ValueError: if there is no data plate or several, if it is subsampled or sequential, if a
            latent of the model is missing from the guide, or differs from it in shape or plates.
    """

    def __init__(self, model: Program, guide: Program, x: Data, plate: str | None = None) -> None:
        args: tuple[Any, ...] = x if isinstance(x, tuple) else (x,)
        self.model, self.guide, self.args = model, guide, args
        self._owners = (model, guide)
        with evaluating(model, guide), torch.random.fork_rng():
            guide_trace = poutine.trace(guide).get_trace(*args)
            trace = poutine.trace(model).get_trace(*args)
            self.plate = data_plate(trace.nodes, plate)
            self.sites = describe(trace.nodes, self.plate)
            inner = describe(guide_trace.nodes, self.plate)
            check_guide(self.sites, inner)
            drawn = ("latent", "auxiliary")
            self.guide_sites = {k: site for k, site in inner.items() if site.role in drawn}
            laid = {k: site.lay(trace.nodes[k]["value"], 1)[0] for k, site in self.sites.items()}
        self.latents = self._named("latent")
        self.observed = self._named("observed")
        self.values = {k: laid[k].cpu() for k in self.observed}
        self.raw = {k: trace.nodes[k]["value"] for k in self.observed}
        self.locals = [k for k in self.latents if self.sites[k].local]
        self.globals = [k for k in self.latents if not self.sites[k].local]
        self.size = int(trace.nodes[self.plate]["value"].numel())
        sites = [*self.sites.values(), *self.guide_sites.values()]
        self.nesting = max(-dim for site in sites for dim, _, _ in site.plates)
        self.points = [k for k in self.guide_sites if is_point_mass(guide_trace.nodes[k]["fn"])]
        self._vectorise: bool | None = None

    def _named(self, role: str) -> list[str]:
        return [k for k, site in self.sites.items() if site.role == role]

    @property
    def device(self) -> torch.device:
        """Where the arguments are."""
        tensors = (a for a in self.args if isinstance(a, Tensor))
        return next((a.device for a in tensors), torch.device("cpu"))

    def replace(self, **changes: Any) -> "Pair":
        """The same pair with another model, guide or args of the same sites, not looked at."""
        other = object.__new__(Pair)
        other.__dict__.update(self.__dict__, **changes)
        return other

    def rows(self, rows: Tensor) -> "Pair":
        """The pair on some of the data.

        Raises:
            ValueError: if the data plate does not follow the arguments' first dimension.
        """
        args = tuple(a[rows.to(a.device)] if self.is_data(a) else a for a in self.args)
        problem = (
            f"cannot run on {len(rows)} of {self.size} data: the plate {self.plate!r} and the "
            "guide must take their size from the arguments, as in pyro.plate('data', len(x))"
        )
        try:
            part = Pair(self.model, self.guide, args, self.plate)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(problem) from error
        if part.size != len(rows):
            raise ValueError(problem)
        part._vectorise = self._vectorise
        return part

    def is_data(self, arg: object) -> bool:
        """Whether an argument has one row for each datum."""
        return isinstance(arg, Tensor) and arg.dim() > 0 and len(arg) == self.size

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

    @property
    def vectorise(self) -> bool:
        """Whether many draws can be run at once: tried, and compared with draws one at a time."""
        if self._vectorise is None:
            with self.still(), torch.random.fork_rng():
                self._vectorise = _vectorises(self)
        return self._vectorise

    def still(self) -> AbstractContextManager[None]:
        """Eval mode and no gradients, within."""
        return evaluating(*self._owners)

    def shared(self) -> poutine.Trace:
        """One draw of what the guide draws outside the data plate, for `holding`."""
        with self.still():
            trace = poutine.trace(self.guide).get_trace(*self.args)
        kept = {k for k, site in self.guide_sites.items() if not site.local}
        for name in [k for k in trace.nodes if k not in kept]:
            trace.remove_node(name)
        return trace

    def holding(self, shared: poutine.Trace) -> "Pair":
        """The pair with the latents outside the data plate held at one draw.

        The densities of local sites are given that draw then.
        """
        values = {k: shared.nodes[k]["value"] for k in self.globals}
        model = poutine.condition(self.model, data=values)
        return self.replace(model=model, guide=poutine.replay(self.guide, trace=shared))

    def posterior(self, draws: int, *, block: int, predict: bool = False) -> Iterator[Draws]:
        """Draws from the guide, scored under both, in blocks of `block` rows (draws times data).

        Args:
            predict: draw the observed sites, too.
        """

        def run(count: int, many: bool) -> Draws:
            with self.many(count, many):
                guide_trace = poutine.trace(self.guide).get_trace(*self.args)
                model = poutine.replay(self.model, trace=guide_trace)
                trace = poutine.trace(model).get_trace(*self.args)
                again = None
                if predict:
                    fresh = poutine.replay(
                        Uncondition(self.observed)(self.model), trace=guide_trace
                    )
                    again = poutine.trace(fresh).get_trace(*self.args)
            out = self._score(trace.nodes, guide_trace.nodes, count)
            if again is not None:
                for name in self.observed:
                    value = again.nodes[name]["value"]
                    out.values[name] = self.sites[name].lay(value, count).cpu()
            return out

        yield from self._blocks(run, draws, block)

    def prior(self, draws: int, *, block: int) -> Iterator[Draws]:
        """Draws of the latent, deterministic and observed sites from the model, not scored."""

        def run(count: int, many: bool) -> Draws:
            with self.many(count, many):
                trace = poutine.trace(Uncondition(self.observed)(self.model)).get_trace(*self.args)
            names = [k for k, site in self.sites.items() if site.role != "factor"]
            values = {k: self.sites[k].lay(trace.nodes[k]["value"], count).cpu() for k in names}
            return Draws(values)

        yield from self._blocks(run, draws, block)

    def simulate(self) -> tuple[Draws, dict[str, Tensor]]:
        """One new data set from the model: its latents and log-density, and the observed values
        as Pyro holds them."""
        with self.still():
            trace = poutine.trace(Uncondition(self.observed)(self.model)).get_trace(*self.args)
            truth = self._score(trace.nodes, {}, 1)
            return truth, {k: trace.nodes[k]["value"] for k in self.observed}

    def score(self, values: Mapping[str, Tensor], *, many: bool) -> Draws:
        """Log-densities under the model at given latents, laid out; draws one at a time if not
        `many`."""
        count = len(next(iter(values.values())))
        latents = {k: self.sites[k].unlay(v).to(self.device) for k, v in values.items()}
        if not many:
            single = [
                {k: v[i].reshape(self.sites[k].shape) for k, v in latents.items()}
                for i in range(count)
            ]
            return Draws.cat([self._scored(one, 1, many) for one in single])
        return self._scored(latents, count, many)

    def _scored(self, latents: Mapping[str, Tensor], count: int, many: bool) -> Draws:
        wide = {}
        for name, value in latents.items():
            gap = 1 + self.nesting + self.sites[name].event_dim - value.dim()
            shape = (*value.shape[:1], *(1,) * gap, *value.shape[1:])
            wide[name] = value.reshape(shape) if many else value
        with self.still(), self.many(count, many):
            model = poutine.condition(self.model, data=wide)
            trace = poutine.trace(model).get_trace(*self.args)
        return self._score(trace.nodes, {}, count)

    def many(self, count: int, many: bool) -> Any:
        return pyro.plate(_PLATE, count, dim=-1 - self.nesting) if many else nullcontext()

    def _blocks(
        self, run: Callable[[int, bool], Draws], draws: int, block: int
    ) -> Iterator[Draws]:
        with self.still():
            many = self.vectorise
            step = max(1, block // self.size) if many else 1
            for start in range(0, draws, step):
                yield run(min(step, draws - start), many)

    def _score(self, nodes: dict[str, Any], inner: dict[str, Any], count: int) -> Draws:
        out = Draws()
        for name, site in self.sites.items():
            node = nodes[name]
            if site.role in ("latent", "deterministic", "missing"):
                out.values[name] = site.lay(node["value"], count).cpu()
            if site.role not in ("deterministic", "missing"):
                out.log_p[name] = site.lay(log_density(node), count, 0).cpu().double()
        try:
            for name in inner.keys() & self.guide_sites.keys():
                site = self.guide_sites[name]
                out.log_q[name] = site.lay(log_density(inner[name]), count, 0).cpu().double()
        except NotImplementedError:  # an implicit guide
            out.log_q = {}
        return out

    def per_datum(self, terms: Mapping[str, Tensor], sites: Mapping[str, Site]) -> Tensor:
        """Sum of the local terms for each draw and datum, (draw, n)."""
        parts = [
            v.flatten(2).sum(2) if v.dim() > 2 else v for k, v in terms.items() if sites[k].local
        ]
        return torch.stack(parts).sum(0)


def _vectorises(pair: Pair) -> bool:
    """Whether two draws run at once score the same as one at a time.

    A network may take rows of one batch dimension only, or a model may sum over the wrong
    dimension, and then draws have to be run one by one. An error in the plain run has been raised
    before this is asked, so that an error here speaks of the extra dimension alone.
    """
    pair._vectorise = True
    try:
        draws = next(pair.posterior(2, block=2 * pair.size, predict=True))
        if len(next(iter(draws.values.values()))) != 2:
            return False
        single = pair.score({k: draws.values[k] for k in pair.latents}, many=False)
        return all(
            torch.allclose(draws.log_p[k], v, rtol=1e-3, atol=1e-3, equal_nan=True)
            for k, v in single.log_p.items()
        ) and _guide_vectorises(pair, draws.values, draws.log_q)
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
        return False
    finally:
        pair._vectorise = None


def _guide_vectorises(
    pair: Pair, values: Mapping[str, Tensor], log_q: Mapping[str, Tensor]
) -> bool:
    """Compares the guide's densities. Point masses follow from the sites they are made of."""
    if not log_q or any(site.role == "auxiliary" for site in pair.guide_sites.values()):
        return True
    for i in range(2):
        fixed = {}
        for name in pair.latents:
            if name in pair.points:
                continue
            site = pair.guide_sites[name]
            value = pair.sites[name].unlay(values[name][i : i + 1])
            fixed[name] = value.reshape(site.shape).to(pair.device)
        trace = poutine.trace(poutine.condition(pair.guide, data=fixed)).get_trace(*pair.args)
        for name in fixed:
            one = pair.guide_sites[name].lay(log_density(trace.nodes[name]), 1, 0).cpu().double()
            if not torch.allclose(one[0], log_q[name][i], rtol=1e-3, atol=1e-3, equal_nan=True):
                return False
    return True


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draws within follow `seed` and leave the caller's generator alone; None uses the latter."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
