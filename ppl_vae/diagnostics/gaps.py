"""Where a guide loses nats: its family, or the network that amortises it."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import transform_to

from ppl_vae.diagnostics.pair import Draws, Pair
from ppl_vae.evaluation.proposal import to_support
from ppl_vae.evaluation.weights import khat
from ppl_vae.program.handlers import Replace
from ppl_vae.records import Record, table

if TYPE_CHECKING:
    import pandas

__all__ = ["Gaps", "inference_gaps"]

_Builder = tuple[type, dict[str, Tensor], dict[str, Any], int]


@dataclass(frozen=True, repr=False)
class Gaps(Record):
    r"""Nats that the guide loses on each datum; all arrays have shape (rows,).

    $$\log p(x) - \mathrm{ELBO}(q)
      = \underbrace{\log p(x) - \mathrm{ELBO}(q^*)}_{\text{approximation gap}}
      + \underbrace{\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)}_{\text{amortisation gap}}$$

    where q* is the best member of the guide's family for the datum alone.

    Attributes:
        evidence: log p(x), by importance sampling from a Student-t laid on the NUTS draws.
        evidence_error: its standard error.
        evidence_k: Pareto k-hat of that estimate; above 0.7 do not trust it.
        elbo: ELBO of the guide.
        elbo_error: its standard error.
        refined: ELBO of q*. None if the family cannot be read off: the guide draws a latent
            given another one, or from something else than one distribution with constrained
            parameters (a flow, a uniform box).
        refined_error: its standard error.
    """

    evidence: np.ndarray
    evidence_error: np.ndarray
    evidence_k: np.ndarray
    elbo: np.ndarray
    elbo_error: np.ndarray
    refined: np.ndarray | None
    refined_error: np.ndarray | None

    def to_dataframe(self) -> "pandas.DataFrame":
        """As a `pandas.DataFrame`, a row for each datum; what was not asked for is left out."""
        names: tuple[str, ...] = (
            "evidence",
            "evidence_error",
            "evidence_k",
            "elbo",
            "elbo_error",
            "refined",
        )
        names += ("refined_error", "inference", "approximation", "amortisation")
        found = {name: getattr(self, name) for name in names}
        return table({k: v for k, v in found.items() if v is not None}, name="datum")

    @property
    def inference(self) -> np.ndarray:
        """log p(x) - ELBO(q) = KL(q || p(z given x)), at least 0 up to error."""
        return self.evidence - self.elbo

    @property
    def approximation(self) -> np.ndarray | None:
        """log p(x) - ELBO(q*): what the family costs."""
        return None if self.refined is None else self.evidence - self.refined

    @property
    def amortisation(self) -> np.ndarray | None:
        """ELBO(q*) - ELBO(q): what the encoder costs. q* is found by a finite search, so that it
        may come out slightly below 0 for a guide that is optimal."""
        return None if self.refined is None else self.refined - self.elbo

    def summary(self) -> dict[str, float]:
        """Figures for a table: means over the rows, nats."""
        table = {
            "log_evidence": float(self.evidence.mean()),
            "max_evidence_k": float(self.evidence_k.max()),
            "inference_gap": float(self.inference.mean()),
        }
        if self.approximation is not None and self.amortisation is not None:
            table["approximation_gap"] = float(self.approximation.mean())
            table["amortisation_gap"] = float(self.amortisation.mean())
        return table


def inference_gaps(
    pair: Pair,
    nuts: dict[str, Tensor],
    own: Draws,
    *,
    block: int,
    draws: int = 4000,
    steps: int = 300,
    particles: int = 8,
) -> Gaps:
    """Estimates the gaps of `pair`, whose latents outside the plate are held.

    Args:
        pair: the pair.
        nuts: NUTS draws of its local latents, (chains, draws, rows, ...).
        own: draws from the guide.
        block: how many draws times data are run at once.
        draws: importance draws for the evidence.
        steps: optimisation steps towards q*.
        particles: draws in each.
    """
    log_w = _evidence_weights(pair, nuts, draws, block)
    total = log_w.logsumexp(0)
    ratio = (log_w - (total - math.log(draws))).exp()
    elbo, elbo_error = _elbo(pair, own)
    refined = _refine(pair, steps, particles, len(next(iter(own.log_q.values()))), block)
    return Gaps(
        evidence=(total - math.log(draws)).numpy(),
        evidence_error=(ratio.std(0) / math.sqrt(draws)).numpy(),
        evidence_k=np.asarray([khat(w) for w in log_w.T]),
        elbo=elbo,
        elbo_error=elbo_error,
        refined=None if refined is None else refined[0],
        refined_error=None if refined is None else refined[1],
    )


def _elbo(pair: Pair, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    log_q = pair.per_datum(draws.log_q, pair.guide_sites)
    log_w = pair.per_datum(draws.log_p, pair.sites) - log_q
    return log_w.mean(0).numpy(), (log_w.std(0) / math.sqrt(len(log_w))).numpy()


def _evidence_weights(pair: Pair, nuts: dict[str, Tensor], draws: int, block: int) -> Tensor:
    """Log importance weights (draws, rows) of a Student-t proposal in unconstrained space."""
    with pair.still():
        trace = poutine.trace(pair.given).get_trace(*pair.args)
    maps = {k: to_support(trace.nodes[k]["fn"]) for k in pair.locals}
    parts: dict[str, Tensor] = {}
    for name, transform in maps.items():
        site, value = pair.sites[name], nuts[name].flatten(0, 1)
        free = transform.inv(site.unlay(value).to(pair.device)).cpu().double()
        parts[name] = site.lay(free, len(value), site.event_dim)
    flat = torch.cat([v.reshape(*v.shape[:2], -1) for v in parts.values()], 2)
    proposal = _student(flat)
    out = []
    many = pair.vectorise
    step = max(1, block // pair.width)
    for start in range(0, draws, step):
        count = min(step, draws - start)
        u = proposal.sample(torch.Size([count]))
        log_w, values, at = -proposal.log_prob(u), {}, 0
        for name, transform in maps.items():
            site, shape = pair.sites[name], parts[name].shape[1:]
            width = math.prod(shape[1:])
            free = u[..., at : at + width].reshape(count, *shape)
            at += width
            free = site.unlay(free).to(nuts[name].dtype).to(pair.device)
            value = transform(free)
            volume = transform.log_abs_det_jacobian(free, value).cpu().double()
            while volume.dim() > free.dim() - site.event_dim:
                volume = volume.sum(-1)
            log_w = log_w + site.lay(volume, count, 0).flatten(1).reshape(
                count, pair.size, -1
            ).sum(2)
            values[name] = site.lay(value, count).cpu()
        made = pair.score(values, many=many)
        out.append(log_w + pair.per_datum(made.log_p, pair.sites))
    return torch.cat(out)


def _student(draws: Tensor) -> Any:
    """A Student-t with the mean and covariance of (count, rows, width), wider in its tails."""
    centred = draws - draws.mean(0)
    cov = torch.einsum("snd,sne->nde", centred, centred) / (len(draws) - 1)
    diagonal = torch.diag_embed(cov.diagonal(dim1=-2, dim2=-1).clamp_min(1e-12))
    # Shrunk towards its diagonal, by all of it where there are too few draws for a covariance.
    weight = min(1.0, 2 * draws.shape[-1] / len(draws))
    tril = torch.linalg.cholesky((1 - weight) * cov + weight * diagonal)
    return dist.MultivariateStudentT(torch.tensor(5.0).double(), draws.mean(0), tril)


class _Family(Replace):
    """Runs the guide with free parameters for every datum in place of its network's."""

    def __init__(self, builders: dict[str, _Builder]) -> None:
        super().__init__(builders, self.build)
        self.builders = builders

    def build(self, name: str, *, detached: bool = False) -> Any:
        kind, free, maps, events = self.builders[name]
        values = {k: maps[k](v.detach() if detached else v) for k, v in free.items()}
        return kind(**values, validate_args=False).to_event(events)


def _refine(
    pair: Pair, steps: int, particles: int, draws: int, block: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """ELBO and its error of the best member of the guide's family for each datum."""
    builders = _family(pair)
    if builders is None:
        return None
    family = _Family(builders)
    free = [v for _, params, _, _ in builders.values() for v in params.values()]
    fitted = pair.replace(guide=family(pair.guide))
    many = pair.vectorise
    optimiser = torch.optim.Adam(free, lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        with pair.still(), torch.enable_grad():
            reading = fitted.read(particles, many)
            gain = torch.stack(
                [
                    reading.model_sites[k].log_density().sum()
                    for k, s in pair.sites.items()
                    if s.local and s.role in ("latent", "observed", "factor")
                ]
            ).sum()
            # The parameters' own score is left out: its mean is 0 and its variance is not.
            for name in builders:
                fn = family.build(name, detached=True)
                gain = gain - replace(reading.guide_sites[name], fn=fn).log_density().sum()
        for parameter, slope in zip(free, torch.autograd.grad(-gain, free), strict=True):
            parameter.grad = slope / (particles if many else 1)
        optimiser.step()
        schedule.step()
    made = Draws.cat(list(fitted.posterior(draws, block=block)))
    return _elbo(fitted, made)


def _family(pair: Pair) -> dict[str, _Builder] | None:
    """The distributions of the guide's local sites with parameters to optimise, if readable."""
    if any(s.local and s.role != "latent" for s in pair.guide_sites.values()):
        return None
    with pair.still():
        traces = [poutine.trace(pair.guide).get_trace(*pair.args) for _ in range(2)]
    builders: dict[str, _Builder] = {}
    for name in pair.locals:
        fn, again = (trace.nodes[name]["fn"] for trace in traces)
        events = 0
        while type(fn).__name__ == "Independent":
            events += fn.reinterpreted_batch_ndims
            fn, again = fn.base_dist, again.base_dist
        known = [k for k in type(fn).arg_constraints if k in fn.__dict__]
        if not known or not fn.has_rsample or hasattr(fn, "base_dist"):
            return None
        free, maps = {}, {}
        for key in known:
            value = getattr(fn, key)
            if not torch.allclose(value, getattr(again, key)):
                return None
            try:
                maps[key] = transform_to(type(fn).arg_constraints[key])
            except NotImplementedError:
                return None
            free[key] = maps[key].inv(value.detach().clone()).clone().requires_grad_()
        builders[name] = (type(fn), free, maps, events)
    return builders
