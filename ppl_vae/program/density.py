"""Log-densities outside the support, and divergences in closed form."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence

from ppl_vae.program.sites import Site
from ppl_vae.program.wrapping import is_point

__all__ = ["closed_kl", "density", "is_real", "log_density"]


def closed_kl(guide: Site, model: Site) -> Tensor | None:
    r"""$\mathrm{KL}(q \Vert p)$ of a latent by batch entry, in nats, neither masked nor scaled.

    None where Pyro has no closed form; for a point mass, whose `log_density` is a change of
    variables that the closed form leaves out (a constrained latent of an automatic guide); and
    where a site is summed out of the prior.
    """
    if is_point(guide.fn) or model.summed is not None:
        return None
    try:
        kl: Tensor = kl_divergence(guide.fn, model.fn)
    except NotImplementedError:
        return None
    return kl


def density(fn: Distribution, value: Tensor) -> Tensor:
    """The log-density, with minus infinity and not an error outside the support."""
    support, base = _support(fn), _base(fn)
    if isinstance(base, constraints.integer_interval):  # a categorical one looks values up
        indices = torch.where(base.check(value), value, base.lower_bound)
    else:
        indices = value
    with _unvalidated(fn):
        log_p = fn.log_prob(indices)
    if base is constraints.real:
        return log_p
    return log_p if support is None else torch.where(support.check(value), log_p, -math.inf)


def log_density(site: Site) -> Tensor:
    """A site's log-density by batch entry, masked and unscaled, in nats.

    A latent outside the other program's support has density zero; data outside the likelihood's
    are a mistake, which the distribution's own check tells.
    """
    if site.is_observed or site.summed is not None:
        return site.log_density()
    values: Tensor = scale_and_mask(density(site.fn, site.value), 1.0, site.mask)
    return values


def is_real(fn: Distribution) -> bool:
    """Whether the support is all real vectors."""
    return _base(fn) is constraints.real


def _base(fn: Distribution) -> constraints.Constraint | None:
    """The support of one element."""
    support = _support(fn)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _support(fn: Distribution) -> constraints.Constraint | None:
    try:
        return fn.support
    except NotImplementedError:
        return None


@contextmanager
def _unvalidated(fn: Distribution) -> Iterator[None]:
    chain: list[Any] = [fn]
    while isinstance(getattr(chain[-1], "base_dist", None), Distribution):
        chain.append(chain[-1].base_dist)
    kept = [f._validate_args for f in chain]
    try:
        for f in chain:
            f._validate_args = False
        yield
    finally:
        for f, value in zip(chain, kept, strict=True):
            f._validate_args = value
