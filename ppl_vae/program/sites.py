"""The sample sites of a trace: what each is, which plates hold it, and its density."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from ppl_vae.program.wrapping import distribution_name, has_moments, lift

__all__ = [
    "DRAWS",
    "PARTICLES",
    "Plate",
    "Role",
    "Site",
    "Summed",
    "missing_half",
    "read_site",
    "read_sites",
]

PARTICLES = "num_particles_vectorized"
"""The name Pyro gives the plate over vectorised particles."""

DRAWS = "_draws"
"""The name of a plate over many draws of a whole pair at once."""

Role = Literal[
    "latent", "auxiliary", "observed", "factor", "deterministic", "missing", "marginalised"
]
"""What a site is: `latent`, sampled by the model; `auxiliary`, sampled by the guide alone;
`observed`; `factor`, a `pyro.factor`; `deterministic`; `missing`, the half of an `obs_mask` site
that is not observed; `marginalised`, a discrete one of the model that is summed over."""


@dataclass(frozen=True)
class Plate:
    """A vectorised plate around a site.

    Attributes:
        name: its name.
        dim: its batch dimension, negative.
        size: how many entries the run has.
        full_size: how many they stand for: more than `size` under subsampling. Where several
            processes have the rows of a subsample, those of this one's part, no whole number.
    """

    name: str
    dim: int
    size: int
    full_size: float


@dataclass(frozen=True, eq=False)
class Summed:
    """A density from which sites that the model enumerates are summed out.

    Attributes:
        log_density: by batch entry, masked and unscaled, in nats.
        names: the sites whose joint density it is; none where another of them carries it.
    """

    log_density: Tensor
    names: tuple[str, ...]


@dataclass(eq=False)
class Site:
    """A sample site of one run.

    A mask that the distribution carries (`fn.mask(m)`) is lifted: it joins `mask`, as if the
    statement stood under `poutine.mask`.

    Attributes:
        name: its name.
        role: see `Role`.
        fn: its distribution, without a mask of its own.
        value: its value.
        plates: the vectorised plates around it, outermost first, without those over draws.
        draws: the plate over vectorised particles or draws, if any.
        sequential: names of the sequential plates around it.
        scale: the scale of `poutine.scale` and of subsampled plates.
        mask: of `poutine.mask` and of the distribution; None where there is none.
        infer: the statement's `infer`.
        summed: its density where it depends on a site that the model sums over.
    """

    name: str
    role: Role
    fn: Any
    value: Tensor
    plates: tuple[Plate, ...] = ()
    draws: Plate | None = None
    sequential: tuple[str, ...] = ()
    scale: Tensor | float = 1.0
    mask: Tensor | bool | None = None
    infer: Mapping[str, Any] = field(default_factory=dict)
    summed: Summed | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def event_dim(self) -> int:
        return len(self.fn.event_shape)

    @property
    def batch_shape(self) -> torch.Size:
        """The distribution's, without the dimensions of sites that are summed out."""
        shape: torch.Size = self.fn.batch_shape
        return shape if self.summed is None else self.summed.log_density.shape

    @property
    def shape(self) -> torch.Size:
        """Batch and event shape, as the distribution has them."""
        shape: torch.Size = self.batch_shape + self.fn.event_shape
        return shape

    @property
    def is_observed(self) -> bool:
        """Whether its density is of something given: `obs=` or a `pyro.factor`."""
        return self.role in ("observed", "factor")

    @property
    def weighs_all(self) -> bool:
        """Whether no entry has weight zero: no mask, and a scale that is a positive number."""
        scaled = not isinstance(self.scale, Tensor) and self.scale > 0
        return scaled and (self.mask is None or self.mask is True)

    @property
    def dims(self) -> dict[str, int]:
        """The batch dimension of each plate, by name."""
        return {plate.name: plate.dim for plate in self.plates}

    @property
    def depth(self) -> int:
        """The number of batch dimensions that plates take."""
        return max([-plate.dim for plate in self.plates], default=0)

    @property
    def missing(self) -> Tensor | None:
        """Which elements of the value only stand for missing ones, where any may."""
        found: Tensor | None = self.infer.get("missing")
        return found

    def plate(self, name: str) -> Plate | None:
        """The plate of a name, or None where it does not hold the site."""
        return next((plate for plate in self.plates if plate.name == name), None)

    def inside(self, plates: Iterable[str]) -> bool:
        """Whether all of the plates hold the site."""
        return set(plates) <= self.dims.keys()

    def log_density(self) -> Tensor:
        """The log-density by batch entry in nats, masked and unscaled."""
        if self.summed is not None:
            return self.summed.log_density
        value = self._scored()
        return value if self.mask is None else scale_and_mask(value, 1.0, self.mask)

    def mean(self) -> Tensor:
        """The mean of its distribution.

        Raises:
            ValueError: if it has none, or none in closed form.
        """
        if self.summed is not None:
            raise ValueError(
                f"the {distribution_name(self.fn)} of site {self.name!r} has a mean for each "
                "value of a site that the model sums over, and a cost needs one: use InfoVAE, "
                "which takes the log-likelihood"
            )
        if has_moments(self.fn):
            try:
                mean: Tensor = self.fn.mean
                return mean
            except NotImplementedError:
                pass
        raise ValueError(
            f"the {distribution_name(self.fn)} of site {self.name!r} has no mean in closed form, "
            "which a cost and a reconstruction error need: use InfoVAE, which takes the "
            "log-likelihood, or generate(mean=False)"
        )

    def scaled(self, values: Tensor) -> Tensor:
        """Values by batch entry, masked and scaled as the site's density is in a loss."""
        weighted: Tensor = scale_and_mask(values, self.scale, self.mask)
        return weighted

    def log_prob(self) -> Tensor:
        """The log-density by batch entry in nats, masked and scaled."""
        if self.summed is not None:
            scaled: Tensor = scale_and_mask(self.summed.log_density, self.scale, None)
            return scaled
        return self.scaled(self._scored())

    def _scored(self) -> Tensor:
        """What its distribution says of its value; one outside the support is told in a line."""
        try:
            found: Tensor = self.fn.log_prob(self.value, *self.args, **self.kwargs)
        except ValueError as error:
            said = str(error).partition("\n")[0].rstrip(":")
            raise ValueError(f"site {self.name!r}: {said}") from error
        return found

    def unscaled(self) -> "Site":
        """The same without its scale."""
        return replace(self, scale=1.0)

    def unmasked(self) -> "Site":
        """The same without its mask."""
        return replace(self, mask=None)


def read_sites(trace: Trace, model: Collection[str] | None = None) -> dict[str, Site]:
    """The sample sites of a trace in their order, without subsample indices.

    Args:
        trace: of one run.
        model: the names of the model's sites, where the trace is a guide's.
    """
    nodes = {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node)
    }
    return {name: _site(node, nodes, model) for name, node in nodes.items()}


def read_site(node: Mapping[str, Any]) -> Site:
    """A site by itself, while a program runs."""
    return _site(node, {}, None)


def _site(node: Mapping[str, Any], nodes: Collection[str], model: Collection[str] | None) -> Site:
    fn, mask = lift(node["fn"], node["mask"])
    value = node["value"]
    frames = [frame for frame in node["cond_indep_stack"] if frame.vectorized]
    plates = [_plate(frame, fn, value) for frame in frames]
    role = _role(node, nodes, model)
    return Site(
        name=node["name"],
        role=role,
        fn=fn,
        value=value,
        plates=tuple(plate for plate in plates if plate.name not in (PARTICLES, DRAWS)),
        draws=next((plate for plate in plates if plate.name in (PARTICLES, DRAWS)), None),
        sequential=tuple(f.name for f in node["cond_indep_stack"] if not f.vectorized),
        scale=node["scale"],
        mask=mask,
        infer=node["infer"],
        args=node["args"],
        kwargs=node["kwargs"],
    )


def _plate(frame: Any, fn: Any, value: Any) -> Plate:
    size = int(frame.size)
    if size < 0:  # `pyro.plate("data")`: as many entries as the values have there
        shape = fn.batch_shape
        if len(shape) < -frame.dim and isinstance(value, Tensor):
            shape = value.shape[: value.dim() - len(fn.event_shape)]
        size = shape[frame.dim] if len(shape) >= -frame.dim else 1
    full = frame.full_size
    return Plate(frame.name, frame.dim, size, size if full is None or full < 0 else int(full))


def _role(node: Mapping[str, Any], nodes: Collection[str], model: Collection[str] | None) -> Role:
    if node["infer"].get("_deterministic"):
        return "deterministic"
    if node["is_observed"]:
        return "factor" if site_is_factor(node) else "observed"  # type: ignore[arg-type]
    if model is not None:
        known = model
        if node["name"] not in known:
            return "auxiliary"
    else:
        known = nodes
    return "missing" if missing_half(node["name"], known) else "latent"


def missing_half(name: str, sites: Collection[str]) -> bool:
    """Whether a site is what an `obs_mask` leaves out, `x_unobserved` of `x`.

    Given the rest it integrates to one, so that a guide need not sample it.
    """
    stem, _, end = name.rpartition("_")
    return end == "unobserved" and f"{stem}_observed" in sites
