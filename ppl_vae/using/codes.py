"""Codes of rows: means, spreads, weighted draws; and the rows' evidence."""

from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.evaluation.codes import posterior_codes
from ppl_vae.evaluation.likelihood import nll
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating

__all__ = ["Draws", "encode", "log_likelihood", "posterior_draws"]


# Rows whose weights are held at once.
_ROWS = 4096


class Draws(NamedTuple):
    """Draws of the codes of n rows.

    Attributes:
        codes: K draws from the guide for each row, `(n, K, d)`.
        log_weights: $\\log p(x, z) - \\log q(z | x)$ of each in nats, `(n, K)`; None if not asked
            for.
    """

    codes: Tensor
    log_weights: Tensor | None = None


def encode(
    model: Program,
    guide: Program,
    x: Data,
    sd: bool = False,
    plate: str | None = None,
    block: int | None = 1024,
) -> Tensor:
    """Posterior means of each row's code, or their standard deviations, `(n, d)`.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        sd: the standard deviations.
        plate: the data plate's name, where the pair leaves a choice.
        block: rows held at once.
    """
    found = posterior_codes(model, guide, x, block=block, plate=plate)
    return found.variance.sqrt() if sd else found.mean


def posterior_draws(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int,
    weights: bool = False,
    plate: str | None = None,
    block: int | None = 8192,
) -> Draws:
    """Draws of each row's code from the guide, with their importance weights if asked for.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        num_samples: draws for each row, K.
        weights: with log-weights, for which the model is run on every draw.
        plate: the data plate's name, where the pair leaves a choice.
        block: rows times draws held at once.

    Raises:
        ValueError: for weights of a guide that has no density.
    """
    check_positive(num_samples=num_samples, block=block)
    pair = Pair(model, guide, x, plate, block)
    if weights and pair.deterministic:
        raise ValueError("the guide is deterministic: its codes have no log-weights")
    codes, logs = [], []
    with evaluating(model, guide):
        for terms in pair.runs(num_samples):
            codes.append(terms.codes)
            if weights:
                logs.append(terms.log_likelihood.double() + terms.log_prior - terms.log_q)

    def table(parts: list[Tensor]) -> Tensor:
        if not pair.sliced:
            return torch.stack(parts, 1)
        joined = torch.cat(parts)
        return joined.view(-1, num_samples, *joined.shape[1:])

    return Draws(table(codes), table(logs) if weights else None)


def log_likelihood(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 1000,
    plate: str | None = None,
    block: int | None = 8192,
) -> Tensor:
    """An importance-weighted estimate of each row's log-likelihood in nats, `(n,)`.

    A lower bound in expectation: `ppl_vae.evaluation.nll`, which see, is minus the mean of these.
    Rows whose guide is no proposal get a fitted one.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        num_samples: K.
        plate: the data plate's name, where the pair leaves a choice.
        block: rows times draws held at once.
    """
    return -nll(model, guide, x, num_samples, block=block, plate=plate).rows
