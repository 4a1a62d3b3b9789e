"""Sample sites of a pair and the layout in which the diagnostics hold their values.

Pyro lays batch dimensions out from the right: a site in a plate at dim -2 has a dimension of size
1 between that plate and the event. Here every tensor has the layout

    (draw, data plate, other plates from left to right, *event)

whatever dims the plates stand at, and a site outside the data plate lacks that dimension.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

__all__ = ["Site", "Uncondition", "describe", "draw_count", "is_point_mass", "log_density"]


@dataclass(frozen=True)
class Site:
    """What is known of a sample site after one plain run.

    Attributes:
        name: the site's name.
        role: `latent`, `auxiliary` (a latent of the guide alone), `observed`, `missing` (what
            `obs_mask` leaves out), `deterministic` or `factor`.
        plates: (dim, name, size) of the plates around it, the data plate first.
        event_dim: number of event dimensions of its value.
        shape: shape of its value in the plain run.
        local: whether it is in the data plate.
    """

    name: str
    role: str
    plates: tuple[tuple[int, str, int], ...]
    event_dim: int
    shape: torch.Size
    local: bool

    @property
    def event_shape(self) -> torch.Size:
        return self.shape[len(self.shape) - self.event_dim :]

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the plates, in the order of the layout."""
        return tuple(name for _, name, _ in self.plates)

    def lay(self, tensor: Tensor, draws: int, event_dim: int | None = None) -> Tensor:
        """Brings a value or a log-density of the site into the layout.

        Args:
            tensor: of shape (*batch, *event) with or without a draw dimension, which stands left
                of all plates.
            draws: number of draws it holds, or is repeated over.
            event_dim: event dimensions of `tensor`: 0 for a log-density, default the site's.

        Raises:
            ValueError: if a batch dimension belongs to no plate.
        """
        event_dim = self.event_dim if event_dim is None else event_dim
        batch, event = _split(tensor.shape, event_dim)
        depth = max([-dim for dim, _, _ in self.plates] + [len(batch) - 1, 0])
        target = [draws] + [1] * depth
        for dim, _, size in self.plates:
            target[dim] = size
        tensor = tensor.reshape((1,) * (depth + 1 - len(batch)) + tensor.shape)
        try:
            tensor = tensor.expand(*target, *event)
        except RuntimeError as error:
            raise ValueError(
                f"site {self.name!r} has batch shape {tuple(batch)}, which its plates "
                f"{list(self.dims)} do not account for: declare the other dimensions with "
                ".to_event() or with a plate"
            ) from error
        axes = [depth + 1 + dim for dim, _, _ in self.plates]
        rest = [axis for axis in range(1, depth + 1) if axis not in axes]
        last = range(depth + 1, depth + 1 + event_dim)
        tensor = tensor.permute(0, *axes, *rest, *last)
        return tensor.reshape(draws, *(size for _, _, size in self.plates), *event)

    def unlay(self, tensor: Tensor) -> Tensor:
        """The inverse of `lay` for a value: Pyro's layout, the draw dimension first."""
        dims = [dim for dim, _, _ in self.plates]
        order = sorted(range(len(dims)), key=lambda i: dims[i])
        axes = [1 + i for i in order]
        tensor = tensor.permute(0, *axes, *range(1 + len(dims), tensor.dim()))
        batch = [1] * max([-dim for dim in dims] + [0])
        for dim, _, size in self.plates:
            batch[dim] = size
        event = tensor.shape[1 + len(dims) :]
        return tensor.reshape(len(tensor), *batch, *event)


def describe(nodes: dict[str, Any], plate: str | None = None) -> dict[str, Site]:
    """The sample sites of a trace of one plain run, without plates and subsampling sites."""
    sites = {}
    for name, node in nodes.items():
        if node["type"] != "sample" or isinstance(node["fn"], _Subsample):
            continue
        frames = [f for f in node["cond_indep_stack"] if f.vectorized]
        # The data plate first, the others as they stand in the tensor.
        frames.sort(key=lambda f: (f.name != plate, f.dim))
        plates = tuple((f.dim, f.name, int(f.size)) for f in frames)
        value, event_dim, role = node["value"], node["fn"].event_dim, _role(node)
        if role == "deterministic":
            # pyro.deterministic calls every dimension an event; the plates' are recognised.
            depth = max([-dim for dim, _, _ in plates] + [0])
            batch = value.shape[:depth]
            if len(batch) == depth and all(batch[dim] == size for dim, _, size in plates):
                event_dim = value.dim() - depth
            else:
                plates, event_dim = (), value.dim()
        local = any(label == plate for _, label, _ in plates)
        if role == "latent" and _is_missing(name, nodes):
            role = "missing"
        sites[name] = Site(name, role, plates, event_dim, value.shape, local)
    return sites


def log_density(node: dict[str, Any]) -> Tensor:
    """log-density of a traced site in nats, with its mask and without its scale.

    A scale says how much a term counts in a loss; the density of the model is not changed by it.
    """
    value = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
    return scale_and_mask(value, 1.0, node["mask"])  # type: ignore[no-any-return]


def is_point_mass(fn: Any) -> bool:
    """Whether a distribution is a Delta, under whatever wrapping."""
    while type(fn).__name__ != "Delta":
        if not hasattr(fn, "base_dist"):
            return False
        fn = fn.base_dist
    return True


def draw_count(draws: int, least: int = 1, what: str = "draws") -> int:
    """Checks a number of draws."""
    if not isinstance(draws, int) or draws < least:
        raise ValueError(f"{what} must be an integer of at least {least}, got {draws!r}")
    return draws


class Uncondition(Messenger):
    """Draws the named observed sites from the model.

    Pyro's `uncondition` takes every observed value, those of `pyro.factor`, `pyro.deterministic`
    and `poutine.condition` among them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = frozenset(names)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg["is_observed"] = False
            msg["value"] = None
            msg["done"] = False


def _role(node: Any) -> str:
    if node["infer"].get("_deterministic"):
        return "deterministic"
    if node["is_observed"]:
        value = node["value"]
        unit = isinstance(value, Tensor) and value.shape[-1:] == (0,)
        return "factor" if unit else "observed"
    return "auxiliary" if node["infer"].get("is_auxiliary") else "latent"


def _is_missing(name: str, nodes: dict[str, Any]) -> bool:
    """Whether a site is the half of an `obs_mask` that is not observed.

    It integrates to one, so that a guide need not draw it and no density counts it.
    """
    base = name.removesuffix("_unobserved")
    return base != name and f"{base}_observed" in nodes


def _split(shape: torch.Size, event_dim: int) -> tuple[torch.Size, torch.Size]:
    cut = len(shape) - event_dim
    return shape[:cut], shape[cut:]
