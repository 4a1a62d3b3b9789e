"""Data simulated from a pair's model, and where their latents rank among the guide's draws."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.diagnostics.pair import Pair

__all__ = ["JOINT", "placed", "simulated_ranks"]

JOINT = "log_joint"
"""The name of log p(x, z) among what is ranked."""

_Table = dict[str, np.ndarray]


def simulated_ranks(
    pair: Pair, rebuild: Callable[[dict[str, Tensor]], tuple[Any, ...]], draws: int, block: int
) -> tuple[_Table, _Table, _Table, _Table]:
    pair = pair.holding(pair.shared())
    made, observed = pair.simulate()
    fresh = pair.replace(args=rebuild(observed))
    truth = {k: made.values[k][0] for k in pair.locals}
    truth[JOINT] = pair.per_datum(made.log_p, pair.sites)[0]
    below = {k: torch.zeros(v.shape) for k, v in truth.items()}
    equal = {k: torch.zeros(v.shape) for k, v in truth.items()}
    first = {k: torch.zeros(v.shape, dtype=torch.double) for k, v in truth.items()}
    second = {k: v.clone() for k, v in first.items()}
    for part in fresh.posterior(draws, block=block):
        values = {k: part.values[k] for k in pair.locals}
        values[JOINT] = pair.per_datum(part.log_p, pair.sites)
        for k, value in values.items():
            below[k] += (value < truth[k]).sum(0)
            equal[k] += (value == truth[k]).sum(0)
            # Around the truth, so that squares of large numbers are not subtracted.
            gap = value.double() - truth[k].double()
            first[k] += gap.sum(0)
            second[k] += gap.square().sum(0)
    ranks, uniform, variance = {}, {}, {}
    for k in truth:
        rank = below[k] + torch.floor(torch.rand(truth[k].shape) * (equal[k] + 1))
        ranks[k] = rank.long().numpy()
        noise = torch.rand(rank.shape, dtype=torch.double)
        uniform[k] = ((rank.double() + noise) / (draws + 1)).numpy()
        if k != JOINT:
            variance[k] = ((second[k] - first[k].square() / draws) / (draws - 1)).numpy()
    return ranks, uniform, {k: truth[k].double().numpy() for k in variance}, variance


def placed(pair: Pair) -> Callable[[dict[str, Tensor]], tuple[Any, ...]]:
    """Puts drawn observed sites in the place of the arguments that hold the observed values."""
    places: dict[int, str] = {}
    local = [k for k in pair.observed if pair.sites[k].local]
    for name in pair.observed:
        raw = pair.raw[name]
        found = [
            i
            for i, arg in enumerate(pair.args)
            if isinstance(arg, Tensor) and arg.shape == raw.shape and torch.equal(arg, raw)
        ]
        if not found and local and name not in local:
            continue  # an observation outside the plate stays as it is
        if not found:
            raise ValueError(
                f"no argument is the observed value of {name!r} as it is: say with arguments= how "
                "to make the arguments from the drawn observed sites"
            )
        places.update(dict.fromkeys(found, name))

    def rebuild(drawn: dict[str, Tensor]) -> tuple[Any, ...]:
        return tuple(
            drawn[places[i]].reshape(arg.shape).to(arg.dtype) if i in places else arg
            for i, arg in enumerate(pair.args)
        )

    return rebuild
