"""The marginal log-likelihood, by importance sampling from the guide."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.evaluation.estimate import Estimate, importance_nll
from ppl_vae.evaluation.pair import Pair, Terms, with_values
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.evaluation.totals import Total, pair_or_total, total_terms
from ppl_vae.program.density import density

__all__ = ["log_weights", "nll", "refitted"]


def nll(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 1000,
    refit: int = 0,
    block: int | None = 8192,
    plate: str | None = None,
) -> Estimate:
    r"""The negative log-likelihood by importance sampling from q, in nats per datum.

    $$-\frac{1}{n} \sum_i \log \frac{1}{K} \sum_{k=1}^K w_{ik}, \qquad
      w_{ik} = \frac{p(x_i, z_{ik})}{q(z_{ik} | x_i)}, \quad z_{ik} \sim q(z | x_i)$$

    It is positive where $\log p < 0$. Its expectation is at least the true value and falls to it
    with K; to first order the bias is half the squared error of the weights' mean,
    $s_i^2 / 2$ with $s_i^2 = V[w_i] / (K \bar w_i^2)$, which the note reports, and the standard
    error is $\sqrt{\sum_i s_i^2} / n$. Both are themselves read off the weights, and are too small
    where the guide is narrower than the posterior and large weights have not been met. The note
    states no bias where a row's effective sample size is below 30 or 5% of K: the bound may then
    be off by nats. A larger one proves little: Pareto k-hat and `annealed_nll` tell more.

    Where no latent belongs to a row (all are global) all data are one row: the estimate is of
    $-\log p(x_1, \dots, x_n)$, and the note says so.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        num_samples: K.
        refit: steps of Adam that fit the guide to these data first; see `refitted`.
        block: rows times draws held at once.
        plate: the data plate's name, where the pair leaves a choice.

    Raises:
        ValueError: for a deterministic guide, which is no proposal, or K of 1, which has no error.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders,
        arXiv:1509.00519.
    """
    check_positive(num_samples=num_samples, block=block)
    if num_samples < 2:
        raise ValueError("num_samples is 1: importance sampling needs 2 or more for its error")
    pair = pair_or_total(model, guide, x, plate, block)
    _check_proposal(pair)
    if refit and isinstance(pair, Total):
        raise ValueError(
            f"refit={refit} fits a guide row by row, and no latent belongs to a row: train the "
            "guide on these data with Trace_ELBO, and leave refit out"
        )
    if refit:
        with refitted(model, guide, x, steps=refit, plate=plate):
            return nll(model, guide, x, num_samples, 0, block, plate)
    first, second = [], []
    with evaluating(model, guide):
        if isinstance(pair, Total):
            log_w = total_terms(pair, num_samples).log_weight
            sums = log_w.logsumexp(0, True), (2 * log_w).logsumexp(0, True)
            return importance_nll(*sums, num_samples, f"{pair.note}; {num_samples} draws")
        for weights in _chunks(pair, num_samples):
            total = squares = torch.tensor(-math.inf)
            for chunk in weights:
                total = torch.logaddexp(total.to(chunk), chunk.logsumexp(1))
                squares = torch.logaddexp(squares.to(chunk), (2 * chunk).logsumexp(1))
            first.append(total)
            second.append(squares)
    log_sum, log_squares = torch.cat(first), torch.cat(second)
    found = importance_nll(log_sum, log_squares, num_samples, f"{num_samples} draws")
    return replace(found, note=", ".join(filter(None, [found.note, pair.note])))


def log_weights(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 1000,
    block: int | None = 8192,
    plate: str | None = None,
) -> Tensor:
    r"""The log-weights $\log p(x_i, z_{ik}) - \log q(z_{ik} | x_i)$ in nats, `(n, K)` float64.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        num_samples: K.
        block: rows times draws held at once; the result itself is n K numbers.
        plate: the data plate's name, where the pair leaves a choice.
    """
    check_positive(num_samples=num_samples, block=block)
    pair = Pair(model, guide, x, plate, block)
    _check_proposal(pair)
    with evaluating(model, guide):
        return torch.cat([torch.cat(list(w), 1) for w in _chunks(pair, num_samples)])


def _check_proposal(pair: Pair | Total) -> None:
    """Refuses a guide that cannot propose latents."""
    pair.require_observed()
    if isinstance(pair, Pair):
        pair.require_rows()
    if pair.deterministic:
        raise ValueError(
            "the guide is deterministic, so it cannot propose latents: importance sampling needs "
            "a guide with a density"
        )


def _chunks(pair: Pair, num_samples: int) -> Iterator[Iterator[Tensor]]:
    """For each block of data, the log-weights `(b, k)` of chunks of draws that sum to K."""
    draws = min(num_samples, 100, pair.block or num_samples) if pair.sliced else 1

    def weights(rows: Tensor) -> Iterator[Tensor]:
        once = _Proposal(pair, rows) if free else None
        for start in range(0, num_samples, draws):
            k = min(draws, num_samples - start)
            if once is None:
                terms = pair.run(rows.repeat_interleave(k))
                log_q = terms.log_q
            else:
                terms, log_q = once.draw(k)
            # The likelihood first: its run of the model gives the prior too.
            log_w = terms.log_likelihood.double() + terms.log_prior - log_q
            yield log_w.view(-1, k)

    exact = pair.guide_sites == pair.latents and not pair.guide_observed
    free = pair.sliced and exact and pair.independent
    for rows in pair.split(draws) if pair.sliced else [pair.index]:
        yield weights(rows)


class _Proposal:
    """q(z | x) of a block of rows, encoded once and drawn from many times."""

    def __init__(self, pair: Pair, rows: Tensor) -> None:
        self.pair, self.rows = pair, rows
        self.sites = pair.run(rows).guide

    def draw(self, k: int) -> tuple[Terms, Tensor]:
        """The terms of k draws for each row, the draws of one row together, and log q."""
        values, log_q = dict[str, Tensor](), torch.zeros(())
        for name in self.pair.latents:
            site = self.sites[name]
            dim = self.pair.dim_of(site)
            axis = dim - site.event_dim
            drawn = site.fn.sample((k,))
            log_p = scale_and_mask(density(site.fn, drawn), 1.0, site.mask)
            log_p = log_p.movedim(0, dim).flatten(dim - 1, dim).movedim(dim, 0)
            log_q = log_q + log_p.reshape(len(log_p), -1).sum(-1)
            values[name] = drawn.movedim(0, axis).flatten(axis - 1, axis)
        guide = with_values(self.sites, values)
        return Terms(self.pair, self.rows.repeat_interleave(k), guide), log_q


@contextmanager
def refitted(
    model: Program,
    guide: Program,
    x: Data,
    steps: int = 1000,
    learning_rate: float = 1e-3,
    batch: int = 256,
    plate: str | None = None,
) -> Iterator[list[float]]:
    r"""Fits the guide to these data with the model held, and puts it back on leaving.

    An encoder trained on other data is a worse proposal on these than it could be; refitting it
    takes its generalisation gap out of the comparison of models. What moves are the parameters
    that reach the guide and not the model; the loss is `Trace_ELBO`'s, in eval mode.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        steps: of Adam.
        learning_rate: of Adam.
        batch: rows per step, selected at random; all where the pair runs whole.
        plate: the data plate's name, where the pair leaves a choice.

    Yields:
        The losses in nats per datum, one per step.

    Raises:
        ValueError: if every parameter of the guide is also the model's (a prior made of the
            encoder), or the guide has none.

    References:
        Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based
        generative models, arXiv:1611.04273.
    """
    check_positive(steps=steps, batch=batch)
    pair = Pair(model, guide, x, plate)
    _check_proposal(pair)
    with evaluating(model, guide, grad=True):
        terms = pair.run(pair.sample)
        drawn = {name: terms.guide[name].value for name in pair.latents}
        own = _leaves(terms.log_q.sum() + sum(value.sum() for value in drawn.values()))
        detached = with_values(terms.guide, {n: value.detach() for n, value in drawn.items()})
        fixed = Terms(pair, terms.rows, detached)
        shared = _leaves(fixed.log_likelihood.sum() + fixed.log_prior.sum())
    parameters = [p for p in own if not any(p is q for q in shared)]
    if not parameters:
        raise ValueError(
            "the guide has no parameter of its own to refit: it has none, or shares all of them "
            "with the model"
        )
    kept = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    loss_of = pyro.infer.Trace_ELBO().differentiable_loss
    held = [poutine.condition(program, data=pair.held) for program in (model, guide)]
    losses: list[float] = []
    try:
        with evaluating(model, guide, grad=True):
            for _ in range(steps):
                rows = torch.randint(len(pair), (min(batch, len(pair)),)) if pair.sliced else None
                loss = loss_of(*held, *pair.blocks.cut(rows))
                loss = loss / (len(pair) if rows is None else len(rows))
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                for p, g in zip(parameters, gradients, strict=True):
                    p.grad = g
                optimizer.step()
                losses.append(loss.item())
        yield losses
    finally:
        with torch.no_grad():
            for p, value in zip(parameters, kept, strict=True):
                p.copy_(value)
                p.grad = None


def _leaves(value: Tensor) -> list[Tensor]:
    """The leaf tensors a value depends on."""
    found: list[Tensor] = []
    seen: set[object] = set()
    stack = [value.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found.append(variable)
        stack += [parent for parent, _ in node.next_functions]
    return found
