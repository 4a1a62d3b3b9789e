"""Running a model only as far as its latent sites."""

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

__all__ = ["Site", "run_to_last"]

Site = dict[str, Any]


class _Stop(BaseException):
    """Leaves the model; not an Exception, so that no handler of the model's own catches it."""


class _ToLast(Messenger):
    def __init__(self, values: dict[str, Callable[[Site], Tensor] | None]):
        super().__init__()
        self.values = values
        self.sites: dict[str, Site] = {}

    def _pyro_sample(self, msg: Site) -> None:
        value = self.values.get(msg["name"])
        if value is not None:
            msg["value"] = value(msg)
            msg["done"] = True

    def _pyro_post_sample(self, msg: Site) -> None:
        if msg["name"] in self.values:
            self.sites[msg["name"]] = msg.copy()
            if len(self.sites) == len(self.values):
                raise _Stop


def run_to_last(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    values: dict[str, Callable[[Site], Tensor] | None],
) -> dict[str, Site]:
    """Runs a model down to the last of some sites, and returns those; nothing below is called.

    Args:
        model: the model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        values: the sites, each with None to draw it, or a function from the site to its value.
    """
    messenger = _ToLast(values)
    try:
        with messenger:
            model(*args, **kwargs)
    except _Stop:
        pass
    return messenger.sites
