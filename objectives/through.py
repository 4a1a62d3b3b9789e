"""An objective through one of Pyro's losses: the pair with a factor more, and what it allows."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import (
    ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
)
from pyro.ops.provenance import detach_provenance
from torch import Tensor

from ppl_vae.objectives.objective import Objective
from ppl_vae.program.factored import Factored, nest, unwrapped
from ppl_vae.program.modules import Program
from ppl_vae.program.reading import Reading

__all__ = ["check_credited", "check_elbo", "through"]

_MEANS = "takes the logarithm of a mean over particles, which a penalty is no part of: use IWAE"
_REFUSED: dict[type, str] = {
    RenyiELBO: _MEANS,
    TraceTMC_ELBO: _MEANS,
    TraceTailAdaptive_ELBO: (
        "weighs particles by their rank, which a penalty would change: use Trace_ELBO"
    ),
    ReweightedWakeSleep: "has a loss for the model and another for the guide: use Trace_ELBO",
    Trace_MMD: "compares data and holds no latent against its prior: use Trace_ELBO",
    Objective: "is an objective of its own: use one or the other",
}


def check_elbo(elbo: ELBO | None, others: dict[str, Any]) -> None:
    """Refuses losses whose value is not a sum that a penalty may join.

    Args:
        elbo: of Pyro's.
        others: keywords that the loss has itself.

    Raises:
        ValueError: naming it and what to use.
        TypeError: if it is no ELBO.
    """
    if elbo is None:
        return
    name = type(elbo).__name__
    if not isinstance(elbo, ELBO):
        raise TypeError(f"elbo={elbo!r}: give a pyro.infer.ELBO, such as TraceEnum_ELBO()")
    for kind, reason in _REFUSED.items():
        if isinstance(elbo, kind):
            raise ValueError(f"elbo={name}(...) {reason}")
    if name.startswith("Jit"):
        raise ValueError(
            f"elbo={name}(...) records its first call, and draws, schedules and critics of a "
            f"penalty change: use {name.removeprefix('Jit')}"
        )
    if others:
        given = ", ".join(others)
        raise ValueError(f"{given}: give {name} itself what is to hold for its particles")


def through(
    elbo: ELBO,
    how: str,
    cost: Callable[[Reading], Tensor],
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Tensor:
    """A loss of Pyro's with a cost of each run added to it, as a factor of the model.

    Args:
        elbo: the loss.
        how: its method, `"loss"`, `"differentiable_loss"` or `"loss_and_grads"`.
        cost: from a run, what is added: a scalar summed over particles.
        model: the model.
        guide: the guide.
        args: their positional arguments.
        kwargs: their keyword arguments.

    Raises:
        ValueError: for a pair that is refused, in one line.
    """
    name = type(elbo).__name__
    if not hasattr(elbo, how):
        raise ValueError(
            f"{name} has gradients by loss_and_grads alone: train by pyro.infer.SVI or ppl_vae.fit"
        )
    reading = nest(elbo, model, guide, args, kwargs)
    if reading is not None and reading.marginalised and not isinstance(elbo, TraceEnum_ELBO):
        raise ValueError(
            f"site {reading.marginalised[0]!r} of the model is enumerated, which {name} does not "
            "do: use elbo=TraceEnum_ELBO(), or leave elbo out"
        )
    pair = Factored(model, guide, cost, elbo.max_plate_nesting)
    with unwrapped():
        loss = getattr(elbo, how)(pair.model, pair.guide, *args, **kwargs)
    return detach_provenance(torch.as_tensor(loss))


def check_credited(elbo: ELBO, reading: Reading) -> None:
    """Refuses a guide whose draws would get no credit for a penalty.

    `TraceEnum_ELBO` takes what is outside a plate to follow from nothing that is inside.

    Raises:
        ValueError: naming the site.
    """
    if not isinstance(elbo, TraceEnum_ELBO):
        return
    for name, site in reading.guide_sites.items():
        sampled = not site.is_observed and name not in reading.enumerated
        if sampled and not site.fn.has_rsample and site.plates:
            raise ValueError(
                f"site {name!r} of the guide, {type(site.fn).__name__}, is sampled, and "
                "TraceEnum_ELBO would not credit it with a penalty of all rows: enumerate it with "
                "infer={'enumerate': 'parallel'}, or use elbo=TraceGraph_ELBO()"
            )
