"""The auxiliary r(z|x): what it must be, and its log-density."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from pyro.distributions import Delta, Independent
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ppl_vae.program.wrapping import support_name

__all__ = ["check_auxiliary", "log_r"]

_THIN = {"Simplex": "Dirichlet or RelaxedCategorical", "Sphere": "VonMisesFisher"}
"""Supports that have no volume among all vectors, and what has a density on each."""


def check_auxiliary(
    auxiliary: nn.Module,
    x: Mapping[str, Tensor],
    codes: Mapping[str, Tensor],
    supports: Mapping[str, str],
) -> None:
    """Refuses an r that does not read x, is no distribution, or has no density at z.

    Args:
        auxiliary: the r.
        x: the observed sites' values, each `(n, *size)`.
        codes: the latent sites', each `(n, *event)`.
        supports: the names of their priors' supports.

    Raises:
        ValueError: naming the module and what it was given.
    """
    who = f"the auxiliary {type(auxiliary).__name__}"
    reads = getattr(auxiliary, "size", None)
    shapes = {name: tuple(value.shape[1:]) for name, value in x.items()}
    if isinstance(reads, torch.Size) and [*shapes.values()] != [tuple(reads)]:
        drawn = ", ".join(f"{name!r} of shape {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{who} reads x of shape {tuple(reads)}, and the model draws {drawn}: make its size "
            "that"
        )
    r = auxiliary(*x.values())
    if not isinstance(r, TorchDistributionMixin):
        raise ValueError(f"{who} returned {type(r).__name__}, not a distribution")
    base = r
    while isinstance(base, Independent):
        base = base.base_dist
    if isinstance(base, Delta) or _is_implicit(r):
        raise ValueError(f"{who} has no density: use one that has, such as MeanFieldNormal")
    for name, support in supports.items():
        if support in _THIN and (len(codes) > 1 or support_name(r) != support):
            which = "one" if len(codes) == 1 else f"sites=[{name!r}] and one"
            raise ValueError(
                f"{who} gives {type(base).__name__}, and site {name!r} is on the "
                f"{support.lower()}, around which a density over all vectors grows without end: "
                f"use {which} that is on it too, such as {_THIN[support]}"
            )
    joint = torch.cat([value.reshape(len(value), -1) for value in codes.values()], -1)
    with suppress(NotImplementedError):  # a support that is not known
        if r.event_shape == joint.shape[1:] and not r.support.check(joint).all():
            raise ValueError(
                f"{who} gives {type(base).__name__}, whose support the codes of "
                f"{', '.join(codes)} leave: use one over all vectors, such as MeanFieldNormal"
            )


def _is_implicit(fn: TorchDistributionMixin) -> bool:
    try:
        fn.log_prob(fn.sample())
    except NotImplementedError:
        return True
    return False


def log_r(fn: Any, codes: Sequence[Tensor], outer: bool = False) -> Tensor:
    """log r(z|x) by row, `(n,)`; with `outer`, of each z under each x, `(n, v)`.

    Raises:
        ValueError: if r is over neither z as it is nor its flattened joint.
    """
    flat = torch.cat([code.reshape(len(code), -1) for code in codes], -1)
    accepted = [flat] if len(codes) > 1 else [codes[0], flat]
    if flat.shape[1] == 1:
        accepted.append(flat[:, 0])
    shape = fn.batch_shape + fn.event_shape
    for z in accepted:
        if shape[1:] == z.shape[1:] and (outer or shape[0] == len(z)):
            log_prob = fn.log_prob(z[:, None] if outer else z)
            kept = 2 if outer else 1
            return log_prob.flatten(kept).sum(-1) if log_prob.dim() > kept else log_prob
    rows = f"{shape[0]} rows" if outer else f"{len(flat)} rows"
    raise ValueError(
        f"auxiliary returned a distribution of shape {tuple(shape)} where z has {rows} of shape "
        f"{tuple(accepted[0].shape[1:])}"
    )
