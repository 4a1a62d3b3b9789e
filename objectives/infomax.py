r"""Draws (z, x) of a model run without its observations, and the infomax bound from them."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.func import functional_call

from ppl_vae.objectives.auxiliary import check_auxiliary, log_r
from ppl_vae.program.handlers import Unobserve
from ppl_vae.program.plates import PlateName
from ppl_vae.program.reading import Reading
from ppl_vae.program.replays import without
from ppl_vae.program.rows import by_row
from ppl_vae.program.sites import Site, read_sites
from ppl_vae.program.wrapping import base_of, support_name

__all__ = ["Dream", "Estimator", "check_estimator"]

Estimator = Literal["auto", "reparameterised", "enumerate", "score", "relaxed"]

# One observed site of at most so many values is summed over.
_VALUES = 256


def check_estimator(estimator: Estimator) -> Estimator:
    if estimator not in get_args(Estimator):
        raise ValueError(f"estimator={estimator!r}: use one of {', '.join(get_args(Estimator))}")
    return estimator


class Dream:
    """A model to be run without its observations, next to the run that tells its rows.

    Args:
        reading: a run of the pair, whose globals and subsample indices are kept.
        codes: the latent sites z.
        plate: as in `Reading.rows`.
        estimator: how gradients pass x; see `MutualAutoencoder`.
        temperature: of relaxed draws.

    Attributes:
        estimator: the one taken.
        names: the observed sites that make up x.
    """

    def __init__(
        self,
        reading: Reading,
        codes: Sequence[str],
        plate: PlateName | None,
        estimator: Estimator,
        temperature: float,
    ):
        self.reading = reading
        self.codes, self.rows = reading.rows(plate, codes)
        sites = reading.model_sites
        # What `pyro.factor` and `pyro.deterministic` leave is observed too, but is no variable.
        self.variables = [
            name for name, site in sites.items() if site.role not in ("factor", "deterministic")
        ]
        self.names = [
            name
            for name, site in sites.items()
            if site.role == "observed" and site.inside(self.rows.plates)
        ]
        if not self.names:
            raise ValueError(
                f"the model observes nothing in plate {self.rows.plates}, so no x shares "
                "information with z: observe it there, or use InfoVAE or BetaVAE"
            )
        self.temperature = temperature
        self.estimator = self._choose(estimator)

    def bound(self, auxiliary: nn.Module) -> tuple[Tensor, Tensor]:
        """The infomax bound with r fixed, in nats, and the loss that fits r to the draws."""
        sites = self._run()
        codes = [self._stack(sites[name]) for name in self.codes]
        weights = self._weights(sites)
        fixed = {n: p.detach() for n, p in auxiliary.named_parameters()}

        def frozen(*x: Tensor) -> Any:
            return functional_call(auxiliary, fixed, x)

        detached = [code.detach() for code in codes]
        if self.estimator == "enumerate":
            values, probs = self._values(sites[self.names[0]])
            score = (probs * log_r(frozen(values), codes, outer=True)).sum(-1)
            fit = (probs.detach() * log_r(auxiliary(values), detached, outer=True)).sum(-1)
        else:
            x = [self._stack(sites[name]) for name in self.names]
            score = log_r(frozen(*x), codes)
            fit = log_r(auxiliary(*(part.detach() for part in x)), detached)
        value = score + self._entropy(sites)
        value = value + self._score_function(sites, value.detach(), weights)
        return _mean(value, weights), -_mean(fit, weights)

    @torch.no_grad()
    def check(self, auxiliary: nn.Module) -> None:
        """Refuses an r that does not read the model's x, or has no density at its z.

        One run of the model, which leaves torch's CPU generator where it was.
        """
        with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
            sites = self._run()
            x = {name: self._stack(sites[name]) for name in self.names}
            codes = {name: self._stack(sites[name]) for name in self.codes}
            supports = {name: support_name(sites[name].fn) for name in self.codes}
            check_auxiliary(auxiliary, x, codes, supports)

    def _run(self) -> dict[str, Site]:
        model = without(self.reading, [*self.names, *self._local()])
        draw = self._relaxed if self.estimator == "relaxed" else None
        trace = poutine.trace(Unobserve(self.names, draw)(model))
        return read_sites(trace.get_trace(*self.reading.args, **self.reading.kwargs))

    def _relaxed(self, site: Site) -> Tensor | None:
        if site.fn.has_rsample:
            return None
        relaxed = _relaxation(site.fn, self.temperature)
        assert relaxed is not None
        draw: Tensor = relaxed.rsample()
        return draw

    def _local(self) -> list[str]:
        """All latent sites in the plate: those that are no code are sampled anew as well."""
        sites = self.reading.model_sites
        return [n for n in self.reading.latent if sites[n].inside(self.rows.plates)]

    def _choose(self, estimator: Estimator) -> Estimator:
        sites = [self.reading.model_sites[name] for name in self.names]
        rough = [s.name for s in sites if not s.fn.has_rsample]
        summable = self._is_summable()
        if estimator == "auto":
            if not rough:
                return "reparameterised"
            return "enumerate" if summable else "score"
        if estimator == "reparameterised" and rough:
            raise ValueError(
                f"estimator='reparameterised': site {rough[0]!r}, {_kind(sites, rough[0])}, "
                "passes no pathwise gradient; use 'score', or 'auto'"
            )
        if estimator == "enumerate" and not summable:
            raise ValueError(
                f"estimator='enumerate' needs one observed site, the last of the model, of one "
                f"element and at most {_VALUES} values, which {', '.join(self.names)} is not; use "
                "'score', or 'auto'"
            )
        if estimator == "relaxed":
            for name in rough:
                if _relaxation(self.reading.model_sites[name].fn, self.temperature) is None:
                    raise ValueError(
                        f"estimator='relaxed': no relaxation of site {name!r}, "
                        f"{_kind(sites, name)}, that r could read; use 'score', or observe it as "
                        "Bernoulli or OneHotCategorical"
                    )
        return estimator

    def _is_summable(self) -> bool:
        site = self.reading.model_sites[self.names[-1]]
        fn, base = site.fn, base_of(site.fn)
        if len(self.names) > 1 or fn.event_shape.numel() != 1:
            return False
        if self.variables[-1] != self.names[0]:
            return False  # what is drawn after x may depend on it
        if not base.has_enumerate_support or self._rest(site):
            return False
        return len(base.enumerate_support(expand=False)) <= _VALUES

    def _values(self, site: Site) -> tuple[Tensor, Tensor]:
        """The values x can take, `(v, *size)`, and their probabilities by row, `(n, v)`."""
        fn, base = site.fn, base_of(site.fn)
        values = base.enumerate_support(expand=False)
        log_probs = base.log_prob(values).reshape(len(values), *fn.batch_shape).movedim(0, -1)
        rows = self.rows.cut(log_probs, log_probs.dim() - 1).reshape(-1, len(values))
        return values.reshape(len(values), *fn.event_shape), rows.exp()

    def _score_function(self, sites: dict[str, Site], value: Tensor, weights: Tensor) -> Tensor:
        """A term of value 0 with the score function's gradient at the sites that need it.

        Those are the latent sites of a prior that is learned but not reparameterised, and the
        observed ones where the estimator says so.
        """
        total = torch.zeros_like(value)
        # The other rows' mean is independent of this row's draw, so it leaves no bias.
        others = weights.sum() - weights
        baseline = (_sum(value, weights) - weights * value) / torch.where(others > 0, others, 1)
        advantage = value - torch.where(others > 0, baseline, 0)
        for name in [*self._local(), *(self.names if self.estimator == "score" else [])]:
            site = sites[name]
            if not site.fn.has_rsample:
                # A mask says what was observed; here all is sampled.
                log_prob = site.fn.log_prob(site.value)
                log_prob = self.rows.cut(log_prob, log_prob.dim()).sum(-1).reshape(-1)
                total = total + advantage * (log_prob - log_prob.detach())
        return total

    def _entropy(self, sites: dict[str, Site]) -> Tensor:
        """H(z) by row, in closed form where the prior has one, else minus log p(z) at the draw."""
        rows = []
        for name in self.codes:
            fn = sites[name].fn
            try:
                entropy = fn.entropy()
            except NotImplementedError:
                entropy = -fn.log_prob(sites[name].value)
            rows.append(self.rows.cut(entropy, entropy.dim()).sum(-1).reshape(-1))
        return torch.stack(rows).sum(0)

    def _weights(self, sites: dict[str, Site]) -> Tensor:
        site = sites[self.codes[0]]
        return self.rows.weights(site, site.value.detach()).reshape(-1)

    def _rest(self, site: Site) -> list[int]:
        return [dim for dim in site.dims.values() if dim not in self._front]

    @property
    def _front(self) -> list[int]:
        rows = self.rows
        return [*rows.dims] if rows.particle_dim is None else [rows.particle_dim, *rows.dims]

    def _stack(self, site: Site) -> Tensor:
        """A site's value by row, `(n, *other plates, *event)`; particles are rows here."""
        return by_row(site, self._front).flatten(0, len(self._front) - 1)


def _relaxation(fn: TorchDistributionMixin, temperature: float) -> Any | None:
    base = base_of(fn)
    heat = torch.as_tensor(temperature)
    if isinstance(base, dist.Bernoulli):
        relaxed = dist.RelaxedBernoulliStraightThrough(heat, logits=base.logits)
        return relaxed.to_event(len(fn.event_shape))
    if isinstance(base, dist.OneHotCategorical):
        relaxed = dist.RelaxedOneHotCategoricalStraightThrough(heat, logits=base.logits)
        return relaxed.to_event(len(fn.event_shape) - 1)
    return None


def _kind(sites: Sequence[Site], name: str) -> str:
    return next(type(base_of(site.fn)).__name__ for site in sites if site.name == name)


def _sum(values: Tensor, weights: Tensor) -> Tensor:
    return torch.where(weights > 0, weights * values, 0).sum()


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    return _sum(values, weights) / torch.where(total > 0, total, 1)
