"""Whether a guide is a usable importance proposal, datum by datum."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.diagnostics.densities import check_density
from ppl_vae.diagnostics.pair import Draws, Pair
from ppl_vae.diagnostics.sites import draw_count
from ppl_vae.evaluation import weights
from ppl_vae.evaluation.estimate import Estimate, share_of
from ppl_vae.evaluation.metric import Metric, Subject
from ppl_vae.evaluation.own_draws import weights_of
from ppl_vae.evaluation.programs import Data, Program, seeded
from ppl_vae.evaluation.weights import UNSEEN, Weights, threshold
from ppl_vae.records import Record, table

if TYPE_CHECKING:
    import pandas

__all__ = [
    "METRICS",
    "UNSEEN",
    "ParetoK",
    "check_evidence",
    "check_proposal",
    "khats_of",
    "pareto_k",
    "terms",
    "unmatched",
    "unseen",
    "weigh",
]


@dataclass(frozen=True, repr=False)
class ParetoK(Record):
    r"""Pareto $\hat k$ of each datum's importance weights.

    Attributes:
        k: $\hat k$, (n,). 0 where the weights are constant or their upper tail is all ties;
            inf where fewer than five draws carry the whole weight; nan for a masked datum.
        exact: whether the log-weights are constant to rounding: the guide is the posterior, (n,).
        ess: effective number of the `draws`, (sum w)^2 / sum w^2, (n,).
        log_evidence: importance-sampled log p(x) in nats, (n,), a lower bound in expectation. The
            evidence given one draw of the latents outside the plate, if there are such, and less
            the log-density of what the guide observes.
        draws: number of draws S for each datum.
        threshold: the largest $\hat k$ at which S draws give a usable estimate.
    """

    k: np.ndarray
    exact: np.ndarray
    ess: np.ndarray
    log_evidence: np.ndarray
    draws: int
    threshold: float

    @classmethod
    def of(
        cls, weights: Weights, exact: Tensor | None = None, present: Tensor | None = None
    ) -> "ParetoK":
        """That of weights at hand.

        Args:
            weights: of each datum.
            exact: whether they are constant, where more is known than the weights tell.
            present: False for masked data.
        """
        exact = weights.constant if exact is None else exact
        k = torch.where(exact.cpu(), 0.0, weights.khats)
        return cls(
            k=(k if present is None else k.masked_fill(~present, math.nan)).numpy(),
            exact=exact.cpu().numpy(),
            ess=weights.size.cpu().numpy(),
            log_evidence=weights.log_mean.cpu().numpy(),
            draws=weights.count,
            threshold=threshold(weights.count),
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """As a `pandas.DataFrame`, a row for each datum."""
        columns = {"k": self.k, "exact": self.exact, "ess": self.ess}
        return table(columns | {"log_evidence": self.log_evidence}, name="datum")

    @property
    def usable(self) -> float:
        """Share of data whose guide is a usable importance proposal."""
        return float((self.k[~np.isnan(self.k)] <= self.threshold).mean())

    def summary(self) -> dict[str, float]:
        """Figures for a table."""
        return {
            "usable": self.usable,
            "exact": float(self.exact.mean()),
            "median_k": float(np.nanmedian(self.k)),
            "max_k": float(np.nanmax(self.k)),
            "threshold": self.threshold,
            "median_ess": float(np.median(self.ess)),
            "draws": float(self.draws),
        }


def pareto_k(
    model: Program,
    guide: Program,
    x: Data,
    *,
    draws: int = 1000,
    seed: int | None = None,
    plate: str | None = None,
    block: int = 8192,
) -> ParetoK:
    r"""Pareto $\hat k$ of $\log p(x_i, z) - \log q(z \mid x_i)$ for each datum.

    A generalised Pareto distribution is fitted to the largest $\min(S / 5, 3 \sqrt S)$
    weights of a datum. Its shape k says how many moments the weights have: 1/k of them. Up to
    $\min(1 - 1 / \log_{10} S, 0.7)$ importance sampling from the guide is reliable; above it
    the guide misses part of the posterior and estimates made with it, importance-sampled
    likelihoods among them, are not to be trusted. A guide too wide costs draws, yet is usable.

    Constant weights have no tail to fit (ArviZ 0.23 returns inf for them and 1.x raises), though
    they come from the best guide there is: they are reported as `exact`, with k = 0. Constant
    means to rounding: a range below $64 \epsilon (1 + |\log p| + |\log q|)$ with the float
    eps of the model.

    Latents outside the data plate are sampled once from the guide and held, and observations
    outside it belong to no row. What the guide observes (`obs=`, `pyro.factor`) belongs to
    $\log q$. Where no latent is in a plate with an observation all data are one row, and k
    that of their joint weights.

    Args:
        model, guide: Pyro callables of the same arguments with a full vectorised data plate.
        x: rows of data, or the tuple of the callables' arguments.
        draws: number of draws S for each datum, at least 25.
        seed: makes the draws repeatable and leaves the global generator alone.
        plate: name of the data plate, where several plates could be it.
        block: how many draws times data are run at once.

    Raises:
        ValueError: if there are fewer than 25 draws (no tail to fit), no data plate
            (`ppl_vae.program.NoDataPlate`), a plate that is subsampled at random, or a guide
            without a density for each datum.

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, arXiv:1507.02646.
        Yao et al. (2018), Yes, but did it work?: Evaluating variational inference,
        arXiv:1802.02538.
    """
    draw_count(draws, 25)
    pair = Pair(model, guide, x, plate)
    check_proposal(pair)
    with seeded(seed):
        return weigh(pair, pair.shared(), draws, block)


def check_proposal(pair: Pair) -> None:
    """Refuses a pair whose guide has no density q(z given x) of each datum's latents.

    Raises:
        ValueError: as `check_density`, or if the guide has latents that the model lacks: its
            density is then one of both, and weights made with it average to no evidence.
    """
    check_density(pair)
    if extra := unmatched(pair):
        raise ValueError(
            f"the guide draws {extra}, which the model lacks: its density is one of both and not "
            "of the model's latents, so there are no importance weights"
        )


def check_evidence(pair: Pair) -> None:
    """Refuses a pair whose weights of a datum would not average to the evidence p(x) of it.

    Raises:
        ValueError: if the guide observes something in the data plate, which belongs to its log q,
            or if the model observes none but factors there.
    """
    observed = ("observed", "factor")
    if own := [k for k, s in pair.guide_sites.items() if s.local and s.role in observed]:
        raise ValueError(
            f"the guide observes {own}, which belongs to its log q: weights made with it average "
            "to no evidence; leave it out of the guide"
        )
    if not any(pair.sites[k].local for k in pair.observed):
        raise ValueError(
            f"no data are observed in plate {pair.plate!r}, so that there is no density of them"
        )


def unmatched(pair: Pair) -> list[str]:
    """Sites of the guide alone that no point mass is the image of."""
    extra = [k for k, s in pair.guide_sites.items() if s.local and s.role == "auxiliary"]
    return [] if any(k in pair.points for k in pair.locals) else extra


def terms(pair: Pair, made: Draws) -> tuple[Tensor, Tensor]:
    r"""$\log p(x_i, z)$ and $\log q(z \mid x_i)$ given the latents outside the plate,
    each (draws, n), nats; their difference is the log-weight."""
    if not made.log_q:
        raise ValueError("the guide is implicit: its sites have no log-density")
    return pair.per_datum(made.log_p, pair.sites), pair.per_datum(made.log_q, pair.guide_sites)


def weigh(pair: Pair, shared: Trace, draws: int, block: int) -> ParetoK:
    """k-hat of a pair that `check_proposal` lets pass, its latents outside the plate held."""
    parts, exact, present = [], [], []
    for _, whole in pair.parts(block):
        part = whole.holding(shared)
        largest = torch.zeros(part.size, dtype=torch.double)

        def chunks(part: Pair = part, largest: Tensor = largest) -> Iterator[Tensor]:
            for made in part.posterior(draws, block=block):
                log_p, log_q = terms(part, made)
                size = log_p.abs().amax(0) + log_q.abs().amax(0)
                torch.maximum(largest, size, out=largest)
                yield (log_p - log_q).T

        weights = Weights(chunks(), draws)
        here = largest != 0  # not a number is there
        rounding = 64 * torch.finfo(_precision(part)).eps * (1 + largest)
        exact.append((weights.tail.amax(1) - weights.least <= rounding) & here)
        present.append(here)
        parts.append(weights)
    return ParetoK.of(Weights.cat(parts), torch.cat(exact), torch.cat(present))


def unseen(found: ParetoK) -> float:
    """About the share of the weight that the draws leave unmet, averaged over data; see
    `ppl_vae.evaluation.weights.unseen`."""
    return weights.unseen(torch.as_tensor(found.k), found.draws)


def _precision(pair: Pair) -> torch.dtype:
    kinds = [v.dtype for v in pair.values.values() if v.dtype.is_floating_point]
    return kinds[0] if kinds else torch.get_default_dtype()


def khats_of(subject: Subject) -> ParetoK:
    """Those of the guide's draws for some rows, which the likelihood is sampled with too."""
    return ParetoK.of(subject.once(weights_of))


def _note(found: ParetoK) -> str:
    note = f"{len(found.k)} data, {found.draws} draws each, threshold {found.threshold:.2f}"
    exact = int(found.exact.sum())
    return note + (f", {exact} of constant weights (exact)" if exact else "")


def _usable(subject: Subject) -> Estimate:
    found = subject.once(khats_of)
    return share_of(found.usable, len(found.k), _note(found))


def _typical(subject: Subject) -> Estimate:
    found = subject.once(khats_of)
    return Estimate(float(np.nanmedian(found.k)), note=_note(found))


METRICS = (
    Metric(
        "khat_usable",
        "Usable importance proposals",
        "share of data",
        "Pareto k̂ under its threshold",
        "posterior",
        _usable,
    ),
    Metric(
        "khat_median",
        "Pareto k̂, median",
        "",
        "usable up to its threshold, 0.7 at most",
        "posterior",
        _typical,
    ),
)
