"""The density of a datum given the latents outside the data plate, its own integrated out."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.diagnostics.importance import UNSEEN, terms, unseen, weigh
from ppl_vae.diagnostics.pair import Pair

__all__ = ["Marginal", "marginal"]

_KHAT_DRAWS = 1000


@dataclass(frozen=True)
class Marginal:
    r"""Estimates of $\log p(x_i \mid \theta_s)$.

    Attributes:
        log_p: (draws, n), nats.
        bias: their first-order bias in nats, averaged over draws and data; negative.
        inner_draws: number K of draws of a datum's latents for each draw s.
    """

    log_p: Tensor
    bias: float
    inner_draws: int


def marginal(pair: Pair, values: Mapping[str, Tensor], inner: int, block: int) -> Marginal:
    r"""Integrates the latents of each datum by importance sampling from the guide.

    $$\log \hat p(x_i \mid \theta_s) = \log \frac1K \sum_k
      \frac{p(x_i, z_{ik} \mid \theta_s)}{q(z_{ik} \mid x_i, \theta_s)}$$

    Its expectation is too low by $V[w] / (2 K \bar w^2)$ to first order. Every
    $\theta_s$ has the same noise behind its $z_{ik}$: fresh noise would vary over s
    as the density itself does, and leave-one-out weights, which go with $1 / \hat p$, would
    take it for information and double the bias.

    Args:
        pair: a pair with latents inside and outside the data plate and a guide that
            `check_proposal` lets pass.
        values: draws of the latents outside the plate, laid out.
        inner: K.
        block: how many draws times data are run at once.

    Warns:
        UserWarning: if k-hat, given the first draw, says that the guide is no usable proposal.
    """
    seed = int(torch.randint(2**62, ()))
    shared = pair.shared()
    first = weigh(pair, _held(pair, shared, values, 0), max(inner, _KHAT_DRAWS), block)
    if not unseen(first) <= UNSEEN:
        warnings.warn(
            f"log_likelihood: k-hat is above {first.threshold:.2f} for {1 - first.usable:.0%} of "
            "the data: the guide is no usable proposal for their latents, so log p(x_i) given "
            "the others comes out too low; do not compare models by it",
            stacklevel=3,
        )
    rows, squares = [], 0.0
    count = len(next(iter(values.values())))
    with torch.random.fork_rng():
        for s in range(count):
            held = pair.holding(_held(pair, shared, values, s))
            torch.manual_seed(seed)
            scored = [terms(held, made) for made in held.posterior(inner, block=block)]
            log_w = torch.cat([log_p - log_q for log_p, log_q in scored])
            rows.append(log_w.logsumexp(0) - math.log(inner))
            squares += float((log_w - rows[-1]).exp().var(0).mean())
    return Marginal(torch.stack(rows), -squares / (2 * inner * count), inner)


def _held(pair: Pair, shared: Trace, values: Mapping[str, Tensor], s: int) -> Trace:
    """The trace for `Pair.holding` at draw s of the latents outside the plate."""
    trace = shared.copy()
    for name in pair.globals:
        node = trace.nodes[name]
        value = pair.sites[name].unlay(values[name][s : s + 1]).reshape(node["value"].shape)
        trace.nodes[name] = {**node, "value": value.to(pair.device)}
    return trace
