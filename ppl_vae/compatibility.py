"""Whether a model, a guide and an objective fit together, before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.checks import distribution_name
from ppl_vae.objectives import Objective
from ppl_vae.objectives.plates import local_sites
from ppl_vae.objectives.traces import Site, Traces
from ppl_vae.weights import Program, evaluating, modules_of

__all__ = ["check_compatible"]

_WITHOUT = "an objective that compares no densities there, such as InfoVAE(MMD(), alpha=1)"
_VECTORS = "vectors"
_UNBOUNDED = {"lower_bound": -float("inf"), "upper_bound": float("inf")}
_GUIDES = {
    "sphere": "VonMisesFisher",
    "simplex": "RelaxedCategorical",
    "values of a discrete variable": "an enumerated OneHotCategorical or Categorical",
}

# What a bound may be passed by in single precision.
_SLACK = 1e-4


def check_compatible(
    model: Program, guide: Program, objective: ELBO, batch: Sequence[Any]
) -> None:
    """Refuses a combination that could not be trained, or would be trained to no purpose.

    The guide and the model are run once, and the objective is evaluated once, in evaluation mode;
    torch's generators are left where they were.

    Args:
        model: the model.
        guide: the guide.
        objective: the loss.
        batch: arguments for both.

    Raises:
        ValueError: in one line that names what does not fit and says what would: a latent whose
            shape differs between model and guide; densities compared that live on different sets
            (a prior on the sphere, a guide on all vectors), or do not exist (an implicit or a
            point guide), or leave the prior's support; an observed site without a density whose
            density is wanted; and whatever the objective itself refuses.
    """
    with torch.random.fork_rng(), evaluating(*modules_of(model, guide, objective).values()):
        with pyro.validation_enabled(False):
            traces = _run(model, guide, batch)
        compared = traces.latent
        local = local_sites(traces, None)
        if isinstance(objective, Objective):
            compared = objective.compared(traces)
        for name in compared:
            if name in traces.guide_sites:
                own = isinstance(objective, Objective) and name in local
                _check_densities(traces, name, type(objective).__name__, own)
        _check_loss(model, guide, objective, batch, traces)


def _run(model: Program, guide: Program, batch: Sequence[Any]) -> Traces:
    with torch.no_grad():
        guide_trace = poutine.trace(guide).get_trace(*batch)
        with _Shapes(guide_trace):
            replayed = poutine.replay(model, trace=guide_trace)
            model_trace = poutine.trace(replayed).get_trace(*batch)
    ours, theirs = (
        {n: s for n, s in prune_subsample_sites(t).nodes.items() if s["type"] == "sample"}
        for t in (model_trace, guide_trace)
    )
    return Traces(model, tuple(batch), {}, model_trace, ours, theirs)


class _Shapes(Messenger):
    """Compares a latent's shape in model and guide as it is drawn: the decoder comes after."""

    def __init__(self, guide: poutine.Trace) -> None:
        super().__init__()
        self.guide = guide

    def _pyro_post_sample(self, msg: Any) -> None:
        site = self.guide.nodes.get(msg["name"])
        if site is None or msg["is_observed"] or site_is_subsample(site):
            return
        ours, theirs = (tuple(s["fn"].shape()) for s in (msg, site))
        if ours != theirs:
            raise ValueError(
                f"latent site {msg['name']!r}: {_name(msg)} in the model is of shape {ours}, "
                f"{_name(site)} in the guide of shape {theirs}; give both the same dimension and "
                "the same plates"
            )


def _check_densities(traces: Traces, name: str, objective: str, own: bool) -> None:
    p, q = traces.model_sites[name], traces.guide_sites[name]
    pair = f"site {name!r}: prior {_name(p)}, guide {_name(q)}"
    for part, site in (("guide", q), ("prior", p)):
        # A point guide under one of Pyro's own losses is a MAP estimate, and meant.
        if _has_no_density(site) or (own and part == "guide" and _is_point(site)):
            raise ValueError(
                f"{pair}: the {part} has no density, which {objective} needs here; use a guide "
                f"with one, such as {_fitting(_region(p))}, or {_WITHOUT}"
            )
    ours, theirs = _region(p), _region(q)
    if ours is None or theirs is None or _is_point(q):
        return
    if ours.kind != theirs.kind:
        raise ValueError(
            f"{pair}: the prior is on {ours}, the guide on {theirs}, so {objective} would compare "
            f"densities that do not compare; use {_fitting(ours)} for the guide, or {_WITHOUT}"
        )
    if not ours.holds(theirs):
        raise ValueError(
            f"{pair}: the guide, on {theirs}, can leave the prior, on {ours}, where {objective} "
            f"is infinite; use {_fitting(ours)} for the guide, or {_WITHOUT}"
        )


def _check_loss(
    model: Program, guide: Program, objective: ELBO, batch: Sequence[Any], traces: Traces
) -> None:
    with torch.enable_grad():
        try:
            loss = objective.loss(model, guide, *batch)
        except NotImplementedError as error:
            names = ", ".join(sorted({_name(s) for s in traces.guide_sites.values()}))
            raise ValueError(
                f"{type(objective).__name__} does not fit the guide's {names}: {error}"
            ) from error
    if abs(loss) < float("inf"):
        return
    for name in traces.observed:
        if _is_point(traces.model_sites[name]):
            raise ValueError(
                f"site {name!r}: Delta has no density, which {type(objective).__name__} needs of "
                "data; use WAE, which takes a cost in its place, or another likelihood"
            )


@dataclass(frozen=True)
class _Region:
    """Where a distribution puts its mass: a kind of set, and its bounds where it has them."""

    kind: str
    low: Tensor | float = -float("inf")
    high: Tensor | float = float("inf")

    def __str__(self) -> str:
        if self.kind != _VECTORS:
            return f"the {self.kind}"
        if not self.is_bounded:
            return "all vectors"
        low, high = torch.as_tensor(self.low).min(), torch.as_tensor(self.high).max()
        return f"vectors in [{float(low):g}, {float(high):g}]"

    @property
    def is_bounded(self) -> bool:
        bounds = (torch.as_tensor(self.low), torch.as_tensor(self.high))
        return any(bool(bound.isfinite().any()) for bound in bounds)

    def holds(self, other: "_Region") -> bool:
        """Whether the other lies in here; rows of different batch shapes all in each."""
        low, high = (torch.as_tensor(b) for b in (self.low, self.high))
        inner, outer = (torch.as_tensor(b) for b in (other.low, other.high))
        if low.dim() > 1 and low.shape != inner.shape:
            low, high = low.flatten(0, -2).amax(0), high.flatten(0, -2).amin(0)
        return bool((inner >= low - _SLACK).all() and (outer <= high + _SLACK).all())


def _region(site: Site) -> _Region | None:
    """The support in words that compare; None where it is not known."""
    try:
        support = site["fn"].support
    except (NotImplementedError, AttributeError):
        return None
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is dist.constraints.sphere:
        return _Region("sphere")
    if support is constraints.simplex:
        return _Region("simplex")
    if support.is_discrete:
        return _Region("values of a discrete variable")
    bounds = {
        k: getattr(support, k) for k in ("lower_bound", "upper_bound") if hasattr(support, k)
    }
    if not bounds and support not in (constraints.real, constraints.real_vector):
        return None
    return _Region(_VECTORS, *(bounds.get(k, d) for k, d in _UNBOUNDED.items()))


def _fitting(region: _Region | None) -> str:
    """The guide to use for a prior on a region."""
    if region is None:
        return "MeanFieldNormal"
    return _GUIDES.get(region.kind, "UniformBox" if region.is_bounded else "MeanFieldNormal")


def _has_no_density(site: Site) -> bool:
    try:
        with torch.no_grad():
            site["fn"].log_prob(site["value"])
    except NotImplementedError:
        return True
    return False


def _is_point(site: Site) -> bool:
    fn = site["fn"]
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def _name(site: Any) -> str:
    return distribution_name(site["fn"])
