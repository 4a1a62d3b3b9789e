"""A pair run on all of its arguments, at values that are set."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.program.handlers import SetValues, enumerated, run_to_last
from ppl_vae.program.marginal import marginalise
from ppl_vae.program.modules import Program
from ppl_vae.program.reading import Reading
from ppl_vae.program.running import read
from ppl_vae.program.sites import Site, read_sites

__all__ = ["Whole"]

Sites = dict[str, Site]


class Whole:
    """A model and a guide with their arguments.

    Sites that the guide marks for enumeration are sampled. Those that the model sums over are
    where the latents are given, and sampled where they are not.

    Args:
        model: the model; any Pyro callable.
        guide: the guide, called the same way.
        args: their arguments.
    """

    def __init__(self, model: Program, guide: Program, args: Sequence[Any]) -> None:
        self.model, self.guide = model, poutine.infer_config(guide, _sampled)
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
        sums: bool = True,
    ) -> Sites:
        """The model's sites at given latents; up to the last of some, where these are named.

        With `sums` what the model sums over is summed out, if all latents are given."""
        args, model = self.args if args is None else args, self.model
        given = sums and set(until or self.reading.latent) <= values.keys()
        nesting = self.reading.max_plate_nesting if self.reading.marginalised and given else None
        with SetValues(values):
            if until:
                sites = run_to_last(model, args, {}, dict.fromkeys(until), nesting)
            else:
                if nesting is not None:
                    model = enumerated(model, nesting)
                sites = read_sites(poutine.trace(model).get_trace(*args))
        return sites if nesting is None else marginalise(sites, self.reading.guide_sites)


def _sampled(_: Any) -> dict[str, Any]:
    return {"enumerate": None}
