"""Further runs of a pair that has been read, which keep some of its values."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from pyro import poutine
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.program.handlers import run_to_last
from ppl_vae.program.marginal import marginalise
from ppl_vae.program.modules import Program
from ppl_vae.program.reading import Reading
from ppl_vae.program.sites import Site

__all__ = ["draw_prior", "indices", "run_at", "without"]


def indices(reading: Reading) -> Trace:
    """The plates' subsample indices, for further runs on the same data to replay."""
    found = Trace()
    for name, node in reading.model_trace.nodes.items():
        if site_is_subsample(node):
            found.add_node(name, **node)
    return found


def draw_prior(reading: Reading, local: Iterable[str], joint: Sequence[str]) -> dict[str, Site]:
    """Samples the sites of a joint ancestrally from the model, and stops after the last.

    Subsample indices and the sites that are not `local` keep the run's values, so a decoder below
    the last of them is not called and its batch-norm does not move.
    """
    values: dict[str, Callable[[Site], Tensor] | None] = dict.fromkeys(joint)
    return run_to_last(without(reading, local), reading.args, reading.kwargs, values)


def run_at(
    reading: Reading, local: Iterable[str], values: Mapping[str, Callable[[Site], Tensor]]
) -> dict[str, Site]:
    """The sites of the model run with values set site by site from their prior, without masks.

    Those that model or guide enumerate are summed out, but for such as have a value.
    """
    local, model = set(local), without(reading, local)
    every = {*reading.enumerated, *reading.marginalised}
    model = poutine.infer_config(
        model, lambda site: {"enumerate": "parallel"} if site["name"] in every else {}
    )
    nesting = reading.max_plate_nesting if every else None
    met = run_to_last(model, reading.args, reading.kwargs, values, nesting)
    kept = {name for name in reading.latent if name not in local}
    sites = {name: site.unmasked() for name, site in met.items()}
    return marginalise(sites, kept | values.keys())


def without(reading: Reading, sites: Iterable[str]) -> Program:
    """The model with the run's values kept, but for some sites and those it sums over."""
    kept = reading.model_trace.copy()
    for name in [*sites, *reading.marginalised]:
        kept.nodes.pop(name, None)
    replayed: Program = poutine.replay(reading.model, trace=kept)
    return replayed
