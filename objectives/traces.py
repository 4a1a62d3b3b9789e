r"""One run of a guide and of the model replayed against it, read as latent and observed sites.

A guide site marked `infer={"enumerate": "parallel"}` is not drawn: it takes all its values at
once, along a batch dimension of its own to the left of the plates, and whatever depends on it has
that dimension too. A term of the loss is then the exact expectation over it,

$$\sum_k q(y = k \mid x)\, c(k), \qquad
  \nabla = \sum_k \nabla q(y = k \mid x)\, c(k) + q(y = k \mid x)\, \nabla c(k).$$
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Rejector
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.objectives.agreement import SameRows, check_match
from ppl_vae.objectives.ancestral import Site, run_to_last
from ppl_vae.objectives.dependence import depends

__all__ = ["PARTICLES", "Site", "Traces", "run"]

PARTICLES = "num_particles_vectorized"
"""The name Pyro gives the plate over vectorised particles."""


def run(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    max_plate_nesting: float,
) -> "Traces":
    """Runs the guide, then the model replayed against it; no log-probability is evaluated.

    Enumeration needs to know how many dimensions the plates take: where `max_plate_nesting` is
    infinite and the guide turns out to enumerate, a first run tells, and a second counts.

    Raises:
        ValueError: for a latent site that gives no pathwise gradient, is enumerated one value
            after another, is missing from the guide or from the model, or has another scale or
            mask in the guide.
    """
    unwrapped = poutine.unwrap(guide)
    if isinstance(unwrapped, Messenger):
        guide(*args, **kwargs)
        model_trace, guide_trace = unwrapped.get_traces()
    else:
        model_trace, guide_trace = _run(model, guide, args, kwargs, max_plate_nesting)
        if max_plate_nesting == float("inf") and _enumerates(guide_trace):
            max_plate_nesting = _nesting(model_trace, guide_trace)
            model_trace, guide_trace = _run(model, guide, args, kwargs, max_plate_nesting)
    if is_validation_enabled():
        check_model_guide_match(model_trace, guide_trace, max_plate_nesting)
    traces = Traces(
        model=model,
        args=tuple(args),
        kwargs=kwargs,
        replayable=model_trace,
        model_sites=_samples(prune_subsample_sites(model_trace)),
        guide_sites=_samples(prune_subsample_sites(guide_trace)),
        max_plate_nesting=max_plate_nesting,
    )
    traces.check()
    return traces


def _run(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    max_plate_nesting: float,
) -> tuple[Trace, Trace]:
    if max_plate_nesting < float("inf"):
        guide = EnumMessenger(first_available_dim=-1 - int(max_plate_nesting))(guide)
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    rows = SameRows(guide_trace)
    replayed = poutine.replay(rows(model), trace=guide_trace)
    try:
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    finally:
        rows.check()  # before an error of shapes that comes of it
    return model_trace, guide_trace


def _enumerates(guide: Trace) -> bool:
    return any(s["infer"].get("enumerate") == "parallel" for s in _samples(guide).values())


def _nesting(*traces: Trace) -> int:
    """The number of batch dimensions that plates take."""
    frames = [f for t in traces for s in t.nodes.values() for f in s.get("cond_indep_stack", ())]
    return -min([frame.dim for frame in frames if frame.vectorized], default=0)


def _samples(trace: Trace) -> dict[str, Site]:
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


@dataclass
class Traces:
    """The sample sites of one run.

    Attributes:
        model: the model as run, wrapped in the particle plate if particles are vectorised.
        args: its positional arguments.
        kwargs: its keyword arguments.
        replayable: the model's whole trace, subsample indices and parameters included.
        model_sites: the model's sample sites in the order drawn.
        guide_sites: the guide's.
        max_plate_nesting: the batch dimensions left to plates; enumerated ones come before.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    replayable: Trace
    model_sites: dict[str, Site]
    guide_sites: dict[str, Site]
    max_plate_nesting: float = float("inf")
    _out_of_order: set[str] | None = field(default=None, repr=False)
    _probabilities: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def observed(self) -> list[str]:
        """The model's observed sites (`pyro.factor` included)."""
        return [name for name, site in self.model_sites.items() if site["is_observed"]]

    @property
    def latent(self) -> list[str]:
        """The model's latent sites, in the model's order."""
        return [name for name, site in self.model_sites.items() if not site["is_observed"]]

    @property
    def auxiliary(self) -> list[str]:
        """The guide's sites that the model does not have."""
        return [name for name in self.guide_sites if name not in self.model_sites]

    @property
    def enumerated(self) -> dict[str, int]:
        """The guide's enumerated sites in the order drawn, with their batch dimensions."""
        dims = {n: s["infer"].get("_enumerate_dim") for n, s in self.guide_sites.items()}
        return {name: dim for name, dim in dims.items() if dim is not None}

    def check(self) -> None:
        for name in self.latent:
            if name not in self.guide_sites:
                raise ValueError(
                    f"latent site {name!r} of the model is not in the guide: sample it there, or "
                    "marginalise it in the model"
                )
            check_match(name, self.model_sites[name], self.guide_sites[name])
        for name in self.auxiliary:
            if not self.guide_sites[name]["infer"].get("is_auxiliary"):
                raise ValueError(
                    f"site {name!r} of the guide is not in the model: add infer="
                    "{'is_auxiliary': True} to it if that is meant"
                )
        for name, site in self.guide_sites.items():
            if site["is_observed"]:
                continue
            how = site["infer"].get("enumerate")
            if how is not None and (how != "parallel" or "num_samples" in site["infer"]):
                raise ValueError(
                    f"site {name!r} of the guide is enumerated in a way that this objective does "
                    "not know: use infer={'enumerate': 'parallel'} without num_samples"
                )
            if isinstance(site["fn"], Rejector):
                raise ValueError(
                    f"site {name!r} of the guide, {type(site['fn']).__name__}, is drawn by "
                    "rejection, whose gradient has a part that this objective leaves out: use the "
                    "distribution itself, or pyro.infer.Trace_ELBO"
                )
            if not site["fn"].has_rsample and name not in self.enumerated:
                finite = site["fn"].has_enumerate_support
                raise ValueError(
                    f"site {name!r} of the guide, {type(site['fn']).__name__}, is not "
                    "reparameterised and would pass no gradient: "
                    + ("sum over its values with infer={'enumerate': 'parallel'}, " * finite)
                    + "use a relaxation (RelaxedOneHotCategorical, RelaxedBernoulli) or "
                    "pyro.infer.TraceGraph_ELBO"
                )

    def standing_on(self, name: str) -> set[str]:
        """Latent sites whose draw in the guide is a function of an auxiliary site's draw.

        Where autograd has no record of it (a frozen guide), all of them.
        """
        value = self.guide_sites[name]["value"]
        if not value.requires_grad:
            return set(self.latent)
        return {n for n in self.latent if depends([self.guide_sites[n]["value"]], value)}

    def log_prob(self, name: str) -> Tensor:
        """The scaled, masked log-density of a model site, summed, in nats."""
        self.replayable.compute_log_prob(lambda other, _: other == name)
        site = self.replayable.nodes[name]
        return self.expectation(site["log_prob"], site)

    def cost(self, name: str, cost: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The scaled, masked cost of an observed site against its distribution's mean, summed."""
        site = self.model_sites[name]
        fn, value = site["fn"], site["value"]
        event = len(fn.event_shape)
        mean = fn.mean
        x, mean = (
            t.flatten(-event) if event else t[..., None]
            for t in torch.broadcast_tensors(value, mean)
        )
        return self.expectation(scale_and_mask(cost(x, mean), site["scale"], site["mask"]), site)

    def entropy(self, name: str) -> Tensor:
        """The guide's scaled log-density at a site, summed, in nats: its pathwise part, or all
        of it where the site is enumerated."""
        site = self.guide_sites[name]
        parts = site["fn"].score_parts(site["value"], *site["args"], **site["kwargs"])
        parts = parts.scale_and_mask(site["scale"], site["mask"])
        term = parts.log_prob if name in self.enumerated else parts.entropy_term
        return self.expectation(
            term if isinstance(term, Tensor) else site["value"].new_zeros(()), site
        )

    def kl(self, name: str) -> Tensor:
        r"""The scaled, masked $\mathrm{KL}(q \Vert p)$ of a latent site, summed, in nats.

        In closed form where Pyro has one, else the sampled $\log q - \log p$; sampled too where
        the model and the guide draw two sites in opposite orders, as a bottom-up guide of a chain
        does, since the closed form would hold a parent fixed at a value drawn from its child.
        """
        if name not in self.out_of_order and name not in self.enumerated:
            model, guide = self.model_sites[name], self.guide_sites[name]
            try:
                kl = kl_divergence(guide["fn"], model["fn"])
            except NotImplementedError:
                pass
            else:
                return self.expectation(scale_and_mask(kl, guide["scale"], guide["mask"]), guide)
        return self.entropy(name) - self.log_prob(name)

    def expectation(self, values: Tensor, site: Site) -> Tensor:
        """The sum of a site's values by entry, weighted where they hang on enumerated sites."""
        weights = self.probability(self.choices(values.shape), site)
        if weights is None:
            return values.sum()
        # A choice of probability 0 may have any cost, an infinite one too.
        return (weights * torch.where(weights > 0, values, 0)).sum()

    def choices(self, *shapes: Sequence[int]) -> dict[str, int]:
        """The enumerated sites that tensors of these batch shapes hang on, with their sizes.

        With a site come those that its own distribution hangs on.
        """
        seen, sizes = list(shapes), dict[str, int]()
        for name, dim in reversed(self.enumerated.items()):
            size = max((shape[dim] for shape in seen if len(shape) >= -dim), default=1)
            if size > 1:
                sizes[name] = size
                seen.append(self._probability(name).shape)
        return sizes

    def probability(self, choices: Iterable[str], site: Site) -> Tensor | None:
        """The joint probability of enumerated sites, by batch dimension; None of none.

        Args:
            choices: the enumerated sites, closed as `choices` closes them.
            site: the site whose values are weighted.

        Raises:
            ValueError: if one of them is in a plate that the site is not in.
        """
        inside = {frame.name for frame in site["cond_indep_stack"]}
        joint = None
        for name in choices:
            for frame in self.guide_sites[name]["cond_indep_stack"]:
                if frame.vectorized and frame.name not in inside:
                    raise ValueError(
                        f"site {site['name']!r} depends on the enumerated site {name!r} and is "
                        f"outside its plate {frame.name!r}: move it inside"
                    )
            own = self._probability(name)
            joint = own if joint is None else joint * own
        return joint

    def _probability(self, name: str) -> Tensor:
        if name not in self._probabilities:
            site = self.guide_sites[name]
            self._probabilities[name] = site["fn"].log_prob(site["value"]).exp()
        return self._probabilities[name]

    @property
    def out_of_order(self) -> set[str]:
        """Latent sites that some other site precedes in one of model and guide only."""
        if self._out_of_order is None:
            names = self.latent
            rank = {name: i for i, name in enumerate(self.guide_sites)}
            self._out_of_order = {
                name
                for i, first in enumerate(names)
                for second in names[i + 1 :]
                if rank[first] > rank[second]
                for name in (first, second)
            }
        return self._out_of_order

    def draw_prior(self, local: Iterable[str], picked: Sequence[str]) -> dict[str, Site]:
        """Draws the picked sites ancestrally from the model, and stops after the last of them.

        Subsample indices and the sites that are not `local` keep this run's values, so a decoder
        below the last picked site is not called and its batch-norm does not move.
        """
        values: dict[str, Callable[[Site], Tensor] | None] = dict.fromkeys(picked)
        return run_to_last(self._without(local), self.args, self.kwargs, values)

    def at(
        self, local: Iterable[str], values: dict[str, Callable[[Site], Tensor]]
    ) -> dict[str, Site]:
        """The picked sites of the model run with values set site by site from their prior."""
        return run_to_last(self._without(local), self.args, self.kwargs, dict(values))

    def _without(self, local: Iterable[str]) -> Callable[..., Any]:
        kept = self.replayable.copy()
        for name in local:
            kept.nodes.pop(name, None)
        return poutine.replay(self.model, trace=kept)
