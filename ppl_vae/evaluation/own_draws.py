"""Importance weights by a guide's own draws."""

from collections.abc import Iterator
from functools import partial

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.evaluation.metric import Subject
from ppl_vae.evaluation.pair import Pair, Terms, with_values
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating, unchecked
from ppl_vae.evaluation.terms import require_density
from ppl_vae.evaluation.totals import Total, pair_or_total, total_terms
from ppl_vae.evaluation.weights import Weights
from ppl_vae.program.density import density

__all__ = ["AT_ONCE", "log_weights", "no_weights", "own_weights", "weights_of"]

AT_ONCE = 2048
"""Rows times draws that an evaluation decodes at once: what these make stays in a processor's
cache, which takes a sixth off the time of larger blocks."""


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
    pair.require_observed()
    if refusal := no_weights(pair):
        raise refusal
    with evaluating(model, guide):
        return torch.cat([torch.cat(list(w), 1) for w in _chunks(pair, num_samples)])


def own_weights(pair: Pair | Total, num_samples: int) -> Weights:
    """Those of the guide's own draws, of a pair in evaluation mode.

    Raises:
        ValueError: where these have no density.
    """
    if isinstance(pair, Total):
        if pair.deterministic:
            raise ValueError(
                "the guide is deterministic, so its draws have no density and no weights: use a "
                "guide with a density"
            )
        return Weights([total_terms(pair, num_samples).log_weight[None]], num_samples)
    if refusal := no_weights(pair):
        raise refusal
    return Weights.cat([Weights(each, num_samples) for each in _chunks(pair, num_samples)])


def no_weights(pair: Pair) -> ValueError | None:
    """Why a guide's own draws have no weights, or None."""
    try:
        pair.require_rows()
    except ValueError as error:
        return error
    if pair.deterministic or pair.implicit:
        kind = "deterministic" if pair.deterministic else "implicit"
        return ValueError(
            f"the guide is {kind}, so its draws have no density and no weights: leave "
            "proposal='own' out, and one is fitted"
        )
    return None


def _chunks(pair: Pair, num_samples: int) -> Iterator[Iterator[Tensor]]:
    """For each block of data, the log-weights `(b, k)` of chunks of draws that sum to K."""
    draws = min(num_samples, 100, pair.block or num_samples) if pair.sliced else 1

    def weights(rows: Tensor) -> Iterator[Tensor]:
        once = _Encoded(pair, rows) if free else None

        def chunk(k: int) -> Tensor:
            if once is None:
                terms = pair.run(rows.repeat_interleave(k))
                log_q = terms.log_q
            else:
                terms, log_q = once.draw(k)
            # The likelihood first: its run of the model gives the prior too.
            log_w = terms.log_likelihood.double() + terms.log_prior - log_q
            return log_w.view(-1, k)

        for start in range(0, num_samples, draws):
            run = partial(chunk, min(draws, num_samples - start))
            yield unchecked(run) if start else run()

    exact = pair.guide_sites == pair.latents and not pair.guide_observed
    free = pair.sliced and exact and pair.independent
    for rows in pair.split(draws) if pair.sliced else [pair.index]:
        yield weights(rows)


class _Encoded:
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


def weights_of(subject: Subject) -> Weights:
    """Those of the guide's own draws for some rows, which likelihood and k-hat share."""
    require_density(subject)
    pair = pair_or_total(*subject.pair, subject.few, None, AT_ONCE)
    pair.require_observed()
    with evaluating(*subject.pair):
        return own_weights(pair, subject.effort.samples)
