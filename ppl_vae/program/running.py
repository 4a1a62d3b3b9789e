"""Running a guide, and the model replayed against it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.util import check_model_guide_match

from ppl_vae.program.agreement import SameRows
from ppl_vae.program.dtypes import one_type
from ppl_vae.program.handlers import SameShapes, ShapeMismatch, enumerated
from ppl_vae.program.marginal import marginalise
from ppl_vae.program.modules import Program
from ppl_vae.program.reading import Reading
from ppl_vae.program.sites import DRAWS, missing_half, read_sites

__all__ = ["check_takes", "read"]


def check_takes(args: Sequence[Any], *programs: Program) -> None:
    """Holds the number of arguments that data stand for against what programs take.

    Raises:
        ValueError: naming the program, and how rows are given.
    """
    for program in programs:
        try:
            signature = inspect.signature(program)
        except (TypeError, ValueError):  # built-in functions have none
            continue
        try:
            signature.bind(*args)
        except TypeError as error:
            name = getattr(program, "__qualname__", type(program).__name__)
            given = "one argument" if len(args) == 1 else f"{len(args)} arguments"
            raise ValueError(
                f"the data are {given}, and {name}({', '.join(signature.parameters)}) does not "
                f"take them ({error}): give rows as one array, which numpy.stack makes of a list, "
                "and in a tuple what model and guide are both called with besides them"
            ) from None


def read(
    model: Program,
    guide: Program,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    max_plate_nesting: float = float("inf"),
    check_shapes: bool = False,
    complete: bool = True,
) -> Reading:
    """Runs the guide, then the model replayed against it. No log-probability is evaluated, but of
    what a site is summed out of.

    Enumeration needs to know how many dimensions the plates take: where `max_plate_nesting` is
    infinite and the guide turns out to enumerate, or the model a site that the guide does not
    sample, a first run tells, and a second counts.

    Args:
        model: the model; any Pyro callable.
        guide: the guide, called the same way, or an `AutoGuideMessenger` around the model.
        args: their positional arguments.
        kwargs: their keyword arguments.
        max_plate_nesting: the number of batch dimensions that plates take, where it is known.
        check_shapes: compares the shape of each latent in model and guide as it is sampled, before
            what depends on it fails; not for vectorised particles.
        complete: refuses a pair whose guide lacks a latent site of the model.

    Raises:
        ValueError: for a latent site that is missing from the guide and not marked for parallel
            enumeration, observed there, or (if asked) of another shape; for a site of the guide
            that the model does not have and that is not marked as auxiliary; for data of another
            type of numbers than the pair computes with.
    """
    args, kwargs = tuple(args), dict(kwargs or {})
    unwrapped = poutine.unwrap(guide)
    with one_type([*args, *kwargs.values()]):
        if isinstance(unwrapped, Messenger):
            guide(*args, **kwargs)
            model_trace, guide_trace = unwrapped.get_traces()
        else:
            model_trace, guide_trace = _run(
                model, guide, args, kwargs, max_plate_nesting, check_shapes
            )
            if max_plate_nesting == float("inf") and _enumerates(model_trace, guide_trace):
                max_plate_nesting = _nesting(model_trace, guide_trace)
                model_trace, guide_trace = _run(model, guide, args, kwargs, max_plate_nesting)
    reading = Reading(model, args, kwargs, model_trace, guide_trace, max_plate_nesting)
    reading.check(complete)
    # Replayed sites do not bear a plate over draws; the pair was read without it before.
    many = any(s.draws and s.draws.name == DRAWS for s in reading.guide_sites.values())
    if complete and not many and is_validation_enabled():
        _check_like_pyro(model_trace, guide_trace, max_plate_nesting)
    return reading


def _run(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    max_plate_nesting: float,
    check_shapes: bool = False,
) -> tuple[Trace, Trace]:
    if max_plate_nesting < float("inf"):
        guide = enumerated(guide, max_plate_nesting)
    try:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    except ZeroDivisionError as error:
        if "size cannot be zero" not in str(error):
            raise
        raise ValueError("a plate has no entries: give data of one row or more") from error
    # What the guide observes is its own: the model's site of that name is not its replay.
    sampled = guide_trace.copy()
    for name, node in guide_trace.nodes.items():
        if node["type"] == "sample" and node["is_observed"]:
            sampled.remove_node(name)
    if check_shapes:
        model = SameShapes(read_sites(sampled))(model)
    rows = SameRows(guide_trace)
    model = rows(model)
    if max_plate_nesting < float("inf"):
        model = EnumMessenger()(model)  # further to the left than the guide's
    replayed = poutine.replay(model, trace=sampled)
    try:
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    except ShapeMismatch as error:
        raise ValueError(str(error)) from None
    finally:
        rows.check()  # before an error of shapes that comes of it
    return model_trace, guide_trace


def _check_like_pyro(model: Trace, guide: Trace, max_plate_nesting: float) -> None:
    """Pyro's own check of names, shapes and plates, on the sites that both traces should have."""
    model, guide = model.copy(), guide.copy()
    for name, node in list(model.nodes.items()):
        summed = node["type"] == "sample" and node["infer"].get("enumerate") == "parallel"
        if (summed or missing_half(name, model.nodes)) and name not in guide.nodes:
            model.remove_node(name)
    for name, node in list(guide.nodes.items()):
        if node["type"] == "sample" and node["is_observed"]:
            guide.remove_node(name)
    check_model_guide_match(model, guide, max_plate_nesting)


def _enumerates(model: Trace, guide: Trace) -> bool:
    samples = (site for site in guide.nodes.values() if site["type"] == "sample")
    if any(site["infer"].get("enumerate") == "parallel" for site in samples):
        return True
    sites = marginalise(read_sites(model), guide.nodes)
    return any(site.role == "marginalised" for site in sites.values())


def _nesting(*traces: Trace) -> int:
    """The number of batch dimensions that plates take."""
    frames = [f for t in traces for s in t.nodes.values() for f in s.get("cond_indep_stack", ())]
    return -min([frame.dim for frame in frames if frame.vectorized], default=0)
