"""A pair run on all of its arguments, at values that are set."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.program.handlers import SetValues, run_to_last
from ppl_vae.program.modules import Program
from ppl_vae.program.reading import Reading
from ppl_vae.program.running import read
from ppl_vae.program.sites import Site, read_sites

__all__ = ["Whole"]

Sites = dict[str, Site]


class Whole:
    """A model and a guide with their arguments; sites marked for enumeration are sampled.

    Args:
        model: the model; any Pyro callable.
        guide: the guide, called the same way.
        args: their arguments.
    """

    def __init__(self, model: Program, guide: Program, args: Sequence[Any]) -> None:
        self.model, self.guide = (poutine.infer_config(p, _sampled) for p in (model, guide))
        self.args = tuple(args)
        guide = poutine.unwrap(guide)
        self._messenger = guide if isinstance(guide, Messenger) else None

    @cached_property
    def reading(self) -> Reading:
        """One run of both.

        Raises:
            ValueError: for a pair that `read` refuses.
        """
        return read(self.model, self.guide, self.args, check_shapes=True)

    def guide_at(self, values: Mapping[str, Tensor], args: tuple[Any, ...] | None = None) -> Sites:
        """The guide's sites, at values of those that are not sampled."""
        args = self.args if args is None else args
        with SetValues(values):
            if self._messenger is None:
                trace = poutine.trace(self.guide).get_trace(*args)
            else:
                self.guide(*args)
                _, trace = self._messenger.get_traces()
        return read_sites(trace, self.reading.model_sites)

    def model_at(
        self,
        values: Mapping[str, Tensor],
        args: tuple[Any, ...] | None = None,
        until: Sequence[str] = (),
    ) -> Sites:
        """The model's sites at given latents; up to the last of some, and these alone."""
        args = self.args if args is None else args
        with SetValues(values):
            if until:
                return run_to_last(self.model, args, {}, dict.fromkeys(until))
            return read_sites(poutine.trace(self.model).get_trace(*args))


def _sampled(_: Any) -> dict[str, Any]:
    return {"enumerate": None}
