"""Effect handlers of our own: sampling what is observed, and leaving a model early."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import am_i_wrapped
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from ppl_vae.program.sites import Site, read_site
from ppl_vae.program.wrapping import distribution_name, has_moments

__all__ = [
    "AtMean",
    "Leaves",
    "Replace",
    "SameShapes",
    "SetIndices",
    "SetValues",
    "ShapeMismatch",
    "Unobserve",
    "check_runs_by_itself",
    "enumerated",
    "is_handled",
    "is_messenger",
    "run_to_last",
]

Draw = Callable[[Site], Tensor | None]
Values = Mapping[str, Callable[[Site], Tensor] | None]


class Unobserve(Messenger):
    """Samples observed sites from their distributions.

    Pyro's `uncondition` takes every observed value, those of `pyro.factor` and
    `pyro.deterministic` among them; this one leaves them.

    Args:
        names: the sites; all observed variables where None.
        draw: gives a value in place of the distribution's own draw, or None to take that.
    """

    def __init__(self, names: Iterable[str] | None = None, draw: Draw | None = None) -> None:
        super().__init__()
        self._names = None if names is None else frozenset(names)
        self._draw = draw

    def _pyro_sample(self, msg: Any) -> None:
        if self._names is None:
            if not msg["is_observed"] or not _is_variable(msg):
                return
        elif msg["name"] not in self._names:
            return
        msg["is_observed"], msg["value"], msg["done"] = False, None, False
        value = None if self._draw is None else self._draw(read_site(msg))
        if value is not None:
            msg["value"], msg["done"] = value, True


def _is_variable(msg: Any) -> bool:
    return not (
        site_is_factor(msg) or site_is_subsample(msg) or msg["infer"].get("_deterministic")
    )


class SetValues(Messenger):
    """Gives sites that are not observed their values; they stay unobserved, as in a replay.

    Args:
        values: by the sites' names.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._values and not msg["is_observed"]:
            msg["value"], msg["done"] = self._values[msg["name"]], True


class SetIndices(Messenger):
    """Runs a plate at some of its indices, as `pyro.subsample` statements in it follow.

    Args:
        plate: its name.
        indices: fewer than its size.
    """

    def __init__(self, plate: str, indices: Tensor) -> None:
        super().__init__()
        self._plate, self._indices = plate, indices

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self._plate and site_is_subsample(msg):
            msg["value"], msg["done"] = self._indices, True


class ShapeMismatch(Exception):
    """No ValueError, to whose message Pyro's trace adds the shapes of all sites."""


class SameShapes(Messenger):
    """Compares a latent's shape in model and guide as it is sampled: the decoder comes after.

    Args:
        guide: the guide's sites.

    Raises:
        ShapeMismatch: naming the site and both distributions.
    """

    def __init__(self, guide: Mapping[str, Site]) -> None:
        super().__init__()
        self._guide = guide

    def _pyro_post_sample(self, msg: Any) -> None:
        site = self._guide.get(msg["name"])
        if site is None or msg["is_observed"]:
            return
        ours, theirs = tuple(msg["fn"].shape()), tuple(site.shape)
        if ours != theirs:
            raise ShapeMismatch(
                f"latent site {msg['name']!r}: {distribution_name(msg['fn'])} in the model is of "
                f"shape {ours}, {distribution_name(site.fn)} in the guide of shape {theirs}; "
                "give both the same dimension and the same plates"
            )


class _Stop(BaseException):
    """Leaves the model; not an Exception, so that no handler of the model's own catches it."""


class _Given(Messenger):
    """Gives sites values that are made from their distributions."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Any) -> None:
        value = self._values.get(msg["name"])
        if value is not None:
            msg["value"], msg["done"] = value(read_site(msg)), True


class _Until(Messenger):
    """Keeps the sites that are met, and leaves the model after the last of some."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self._left = set(names)
        self.sites: dict[str, Site] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        self.sites[msg["name"]] = read_site(msg)
        if msg["name"] in self._left:
            self._left.remove(msg["name"])
            if not self._left:
                raise _Stop


def run_to_last(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    values: Values,
    nesting: float | None = None,
) -> dict[str, Site]:
    """Runs a model down to the last of some sites; nothing below is called.

    Args:
        model: the model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        values: the sites, each with None to sample it, or a function from the site to its value.
        nesting: the number of batch dimensions that plates take, where sites that are marked for
            parallel enumeration and have no value take all of theirs; None samples them.

    Returns:
        All sites met.
    """
    until = _Until(values)
    inner = until(model)  # innermost, so that all others have seen the last site too
    if nesting is not None:
        inner = enumerated(inner, nesting)
    try:
        with _Given(values):
            inner(*args, **kwargs)
    except _Stop:
        pass
    return until.sites


def enumerated(program: Callable[..., Any], nesting: float) -> Callable[..., Any]:
    """A program whose sites marked for parallel enumeration take all their values, each in a batch
    dimension of its own left of the `nesting` ones of plates."""
    taken: Callable[..., Any] = EnumMessenger(first_available_dim=-1 - int(nesting))(program)
    return taken


def is_handled() -> bool:
    """Whether an effect handler is at work around this call."""
    return bool(am_i_wrapped())


def is_messenger(program: Callable[..., Any]) -> bool:
    """Whether a guide is an effect handler around the model, as an `AutoGuideMessenger` is."""
    return isinstance(poutine.unwrap(program), Messenger)


def check_runs_by_itself(guide: Callable[..., Any], who: str) -> None:
    """Refuses a guide that only runs around its model.

    Raises:
        ValueError: for an `AutoGuideMessenger`, in the name of what needs it otherwise.
    """
    if is_messenger(guide):
        raise ValueError(
            f"{who} needs a guide that runs by itself, which an AutoGuideMessenger does not: "
            "use an AutoGuide such as AutoNormal, or a function"
        )


class AtMean(Messenger):
    """Puts sites that have no value yet at the means of their distributions, if they have one.

    Args:
        names: the sites.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self._names = frozenset(names)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and msg["name"] in self._names and has_moments(msg["fn"]):
            with suppress(NotImplementedError):
                msg["value"], msg["done"] = msg["fn"].mean, True


class Replace(Messenger):
    """Samples sites from other distributions than their own.

    Args:
        names: the sites.
        make: gives the distribution of a site, by its name; one without a batch has the site's.
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], Any]) -> None:
        super().__init__()
        self._names, self._make = frozenset(names), make

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._names:
            fn, batch = self._make(msg["name"]), msg["fn"].batch_shape
            msg["fn"] = fn if fn.batch_shape else fn.expand(batch)


class Leaves(Messenger):
    """Cuts the graph at each site of a guide, and keeps both ends.

    What runs after a draw sees a leaf in its place, so that densities can be differentiated by
    the draws alone; the graph from the guide's parameters to the draw is kept with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Tensor] = []
        self.leaves: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        value = msg["value"]
        if value is None:
            value = msg["fn"](*msg["args"], **msg["kwargs"])
        if value.is_floating_point():
            self.draws.append(value)
            value = value.detach().requires_grad_()
            self.leaves.append(value)
        msg["value"], msg["done"] = value, True
