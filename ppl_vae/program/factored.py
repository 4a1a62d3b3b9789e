"""A pair with one factor more, of what a run of it shows, for any of Pyro's losses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from pyro import poutine
from pyro.infer import ELBO
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.program.handlers import check_runs_by_itself
from ppl_vae.program.modules import Program
from ppl_vae.program.reading import Reading
from ppl_vae.program.running import read
from ppl_vae.program.sites import PARTICLES

__all__ = ["Factored", "nest", "unwrapped"]


class Factored:
    """A model and a guide, whose runs are read, and a factor of the model made of each reading.

    What the factor runs besides (prior draws, replays) stays unseen. It stands outside all
    plates, so a loss that scores draws by what follows from them (`Trace_ELBO`,
    `TraceGraph_ELBO`) credits it to all draws of the guide that are not reparameterised.

    Args:
        model: the model.
        guide: the guide, called the same way.
        cost: from a reading to what is added to the loss, a scalar summed over particles.
        max_plate_nesting: the number of batch dimensions of plates, particles' included.

    Raises:
        ValueError: for a guide that is an `AutoGuideMessenger`.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        cost: Callable[[Reading], Tensor],
        max_plate_nesting: float,
    ) -> None:
        check_runs_by_itself(guide, "elbo=")
        self._model, self._guide, self._cost = model, guide, cost
        self._nesting = max_plate_nesting
        self._guide_trace = Trace()

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        with poutine.trace() as run:
            returned = self._guide(*args, **kwargs)
        self._guide_trace = run.trace
        return returned

    def model(self, *args: Any, **kwargs: Any) -> Any:
        with poutine.trace() as run:
            returned = self._model(*args, **kwargs)
        with poutine.block():
            cost = self._read(run.trace, args, kwargs)
        with pyro.validation_enabled(False):  # the loss tells of a number that is none
            pyro.factor("_penalty", -cost)
        return returned

    def _read(self, trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        nodes = [node for node in self._guide_trace.nodes.values() if node["type"] == "sample"]
        frames = (frame for node in nodes for frame in node["cond_indep_stack"])
        plate = next((frame for frame in frames if frame.name == PARTICLES), None)
        model = self._model if plate is None else poutine.broadcast(_Inside(plate)(self._model))
        try:
            reading = Reading(model, args, kwargs, trace, self._guide_trace, self._nesting)
            cost = self._cost(reading)
        except (ValueError, RuntimeError) as error:
            raise _Refused(error) from error  # as it is: a trace adds the shapes of all sites
        draws = get_provenance([node["value"] for node in nodes])
        credited: Tensor = track_provenance(detach_provenance(cost), draws)
        # The plate over particles has a factor for each.
        return credited if plate is None else credited / plate.size


class _Inside(Messenger):
    """Puts all sites into a plate whose dimension is taken already."""

    def __init__(self, frame: Any) -> None:
        super().__init__()
        self._frame = frame

    def _pyro_sample(self, msg: Any) -> None:
        msg["cond_indep_stack"] = (self._frame, *msg["cond_indep_stack"])


class _Refused(Exception):
    pass


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raises what a factor was refused for."""
    try:
        yield
    except _Refused as refused:
        error = refused.args[0]
        raise error.with_traceback(None) from None


def nest(
    elbo: ELBO, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Reading | None:
    """Tells a loss of Pyro's how many plates there are, by one run of the pair, where it does not
    know; otherwise it would run the pair with its factor to find out.

    Returns:
        The run, if there was one.
    """
    if elbo.max_plate_nesting < float("inf"):
        return None
    with poutine.block():
        reading = read(model, guide, args, kwargs)
    sites = [*reading.model_sites.values(), *reading.guide_sites.values()]
    depth = max((site.depth for site in sites), default=0)
    many = elbo.vectorize_particles and elbo.num_particles > 1
    elbo.max_plate_nesting = depth + many
    return reading
