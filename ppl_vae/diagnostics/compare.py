"""Pairs ranked by the evidence of the same data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from pyro import poutine

from ppl_vae.diagnostics.importance import (
    UNSEEN,
    ParetoK,
    check_evidence,
    check_proposal,
    unseen,
    weigh,
)
from ppl_vae.diagnostics.pair import Pair
from ppl_vae.diagnostics.sites import draw_count
from ppl_vae.evaluation.likelihood import STEPS, Proposals, fitted_weights
from ppl_vae.evaluation.pair import Pair as EvaluationPair
from ppl_vae.evaluation.programs import Data, Program, evaluating, seeded
from ppl_vae.evaluation.proposal import Family
from ppl_vae.evaluation.weights import threshold
from ppl_vae.records import table

if TYPE_CHECKING:
    import pandas

__all__ = ["Comparison", "compare_pairs"]


@dataclass(frozen=True, repr=False)
class Comparison:
    r"""Models ranked by $\log \hat p(x_i)$; its repr is the table.

    Arrays are in the order of `names`, nats per datum. The error of a difference comes from the n
    differences of the two models at each datum, $\mathrm{SD}(d_i) / \sqrt n$: what most
    data share is no error of it. It is the error for the population of data, and holds the Monte
    Carlo error of the weights already, since each $d_i$ has its own.

    Attributes:
        names: the models, the best first.
        log_evidence: $\log \hat p(x_i)$ of each model, (n,).
        weights: $\hat k$ and effective size behind them, for each model.
        sources: what its draws come from: the guide, or a proposal fitted to each datum.
        mean: their mean over data, (models,), a lower bound in expectation.
        error: its standard error.
        difference: the mean less the best model's, (models,).
        difference_error: standard error of the difference.
        monte_carlo: the part of it that more draws would remove: the error for these very data.
        bias: first-order bias of the mean, negative.
        unseen: $10^{(\hat k_i - 1) / (1 - t)}$ averaged over data, (models,): about the
            share of a datum's weight that this many draws do not meet. It is a tenth where
            $\hat k_i$ is at its threshold t.
    """

    names: tuple[str, ...]
    log_evidence: dict[str, np.ndarray]
    weights: dict[str, ParetoK]
    sources: dict[str, str]
    mean: np.ndarray
    error: np.ndarray
    difference: np.ndarray
    difference_error: np.ndarray
    monte_carlo: np.ndarray
    bias: np.ndarray
    unseen: np.ndarray

    def to_dataframe(self) -> "pandas.DataFrame":
        """As a `pandas.DataFrame`, a row for each model, the best first."""
        names = ("mean", "error", "difference", "difference_error", "monte_carlo", "bias")
        columns = {name: getattr(self, name) for name in (*names, "unseen")}
        return table(columns, [*self.names], "model")

    def __repr__(self) -> str:
        first = self.weights[self.names[0]]
        n = int((~np.isnan(first.k)).sum())
        width = max(map(len, (*self.names, "model")))
        lines = [
            f"log p(x) in nats per datum, {n} data, {first.draws} draws each",
            f"{'model':{width}} {'log p(x)':>10} {'+-':>8} {'to best':>10} {'+-':>8} "
            f"{'of draws':>8} {'bias':>8} {'k-hat':>6} {'size':>6} {'unseen':>7}  draws from",
        ]
        for i, name in enumerate(self.names):
            median = float(np.nanmedian(self.weights[name].k))
            size = float(np.median(self.weights[name].ess))
            lines.append(
                f"{name:{width}} {self.mean[i]:10.3f} {self.error[i]:8.2g} "
                f"{self.difference[i]:10.3f} {self.difference_error[i]:8.2g} "
                f"{self.monte_carlo[i]:8.1g} {self.bias[i]:8.1g} {median:6.2f} "
                f"{size:6.0f} {self.unseen[i]:7.1%}  {self.sources[name]}"
            )
        return "\n".join(lines)


def compare_pairs(
    pairs: Mapping[str, tuple[Program, Program]],
    x: Data,
    *,
    draws: int = 2000,
    proposal: Proposals = "auto",
    steps: int = STEPS,
    seed: int | None = None,
    plate: str | None = None,
    block: int = 8192,
) -> Comparison:
    """Ranks pairs by the evidence of each datum: what `ppl_vae.compare`, which see, calls."""
    draw_count(draws, 25)
    if proposal not in get_args(Proposals):
        raise ValueError(f"proposal={proposal!r}: use one of {', '.join(get_args(Proposals))}")
    if not pairs:
        raise ValueError("there is nothing to compare: give models by name")
    read = {name: _read(name, *pair, x, plate) for name, pair in pairs.items()}
    first = next(iter(read))
    for name in read:
        _check_alike(first, read[first], name, read[name])
    weights: dict[str, ParetoK] = {}
    sources: dict[str, str] = {}
    with seeded(seed):
        for name, pair in read.items():
            if proposal in ("auto", "own") and _proposes(name, pair, proposal == "own"):
                weights[name] = weigh(pair, pair.shared(), draws, block)
                sources[name] = "guide"
            met = name in weights and unseen(weights[name]) <= UNSEEN
            if proposal == "own" or met:
                continue
            program = (*pairs[name], x, plate, block)
            fitted = _fitted(program, draws, proposal, steps, weights.get(name))
            sources[name], weights[name] = fitted
    present = ~np.isnan(weights[first].k)
    for name, found in weights.items():
        if not np.array_equal(present, ~np.isnan(found.k)):
            raise ValueError(f"{name!r} masks other data than {first!r}: mask the same")
        if not np.isfinite(found.log_evidence).all():
            row = int(np.argmin(np.isfinite(found.log_evidence)))
            raise ValueError(
                f"{name!r} gives datum {row} a log p(x) of {found.log_evidence[row]}: its "
                "likelihood is no density there, so there is nothing to rank it by"
            )
    if present.sum() < 2:
        raise ValueError(f"{present.sum()} data: the error of a difference needs 2 or more")
    _check_usable(weights)
    return _rank(weights, sources, present)


def _proposes(name: str, pair: Pair, must: bool) -> bool:
    """Whether the guide's draws have weights; an error where they must."""
    try:
        check_proposal(pair)
    except ValueError as error:
        if must:
            raise ValueError(f"{name!r}: {error}") from error
        return False
    return True


def _fitted(
    program: tuple[Program, Program, Data, str | None, int],
    draws: int,
    proposal: Proposals,
    steps: int,
    own: ParetoK | None,
) -> tuple[str, ParetoK]:
    """The family and the weights of a proposal fitted to each datum."""
    family: Family | None = None if proposal in ("auto", "own") else proposal  # type: ignore[assignment]
    with evaluating(*program[:2]):
        name, found = fitted_weights(EvaluationPair(*program), draws, family, steps)
    k = found.khats.numpy()
    if own is not None:
        k = np.where(np.isnan(own.k), np.nan, k)  # masked data
    return f"fitted, {name.replace('_', ' ')}", ParetoK(
        k=k,
        exact=np.zeros(len(k), dtype=bool),
        ess=found.size.numpy(),
        log_evidence=found.log_mean.numpy(),
        draws=draws,
        threshold=threshold(draws),
    )


def _rank(
    weights: Mapping[str, ParetoK], sources: Mapping[str, str], present: np.ndarray
) -> Comparison:
    rows = {name: found.log_evidence[present] for name, found in weights.items()}
    names = tuple(sorted(rows, key=lambda name: -rows[name].mean()))
    n, best = int(present.sum()), names[0]
    squares = np.array([_squared_error(weights[name])[present].sum() for name in names])
    apart = [rows[name] - rows[best] for name in names]
    monte_carlo = np.sqrt(squares + squares[0]) / n
    monte_carlo[0] = 0.0
    return Comparison(
        names=names,
        log_evidence={name: weights[name].log_evidence for name in names},
        weights={name: weights[name] for name in names},
        sources={name: sources[name] for name in names},
        mean=np.array([rows[name].mean() for name in names]),
        error=np.array([rows[name].std(ddof=1) for name in names]) / math.sqrt(n),
        difference=np.array([d.mean() for d in apart]),
        difference_error=np.array([d.std(ddof=1) for d in apart]) / math.sqrt(n),
        monte_carlo=monte_carlo,
        bias=-squares / (2 * n),
        unseen=np.array([unseen(weights[name]) for name in names]),
    )


def _squared_error(found: ParetoK) -> np.ndarray:
    """Squared standard error of log p^(x_i): V[w] / (S mean(w)^2), from the effective size."""
    return np.maximum(found.draws / found.ess - 1, 0.0) / (found.draws - 1)


def _check_usable(weights: Mapping[str, ParetoK]) -> None:
    bad = {name: w for name, w in weights.items() if not unseen(w) <= UNSEEN}
    if not bad:
        return
    each = "; ".join(
        f"k-hat of {name!r} is {np.nanmedian(w.k):.2f} in the median and above {w.threshold:.2f} "
        f"for {1 - w.usable:.0%} of the data, about {min(unseen(w), 1):.0%} of their weight unseen"
        for name, w in bad.items()
    )
    draws = next(iter(bad.values())).draws
    raise ValueError(
        f"no ranking: {each}: above {UNSEEN:.0%} log p(x) comes out too low; leave "
        f"proposal='own' out or try proposal='flow', more than {draws} draws, or "
        "ppl_vae.evaluation.annealed_nll"
    )


def _read(name: str, model: Program, guide: Program, x: Data, plate: str | None) -> Pair:
    try:
        pair = Pair(model, guide, x, plate)
        # Latents outside the plate; all of them where all data are one row.
        outside = pair.latents if pair.plate is None else pair.globals
        if not outside:
            check_evidence(pair)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from error
    if outside:
        raise ValueError(
            f"{name!r} has latents {outside} outside the data plate, so that data are not "
            "independent: compare such models with arviz.compare on to_arviz(model, guide, x), "
            "whose log_likelihood integrates the latents of a datum"
        )
    return pair


def _check_alike(first: str, one: Pair, name: str, other: Pair) -> None:
    """Refuses densities of different things: nats of one are no nats of the other then."""
    a, b = _observed(one), _observed(other)
    if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True):
        raise ValueError(
            f"{name!r} observes other values ({one.observed} against {other.observed}) than "
            f"{first!r}: densities of other data, or of data in another unit, have no common scale"
        )
    kinds = [_discrete(one), _discrete(other)]
    if None not in kinds and kinds[0] != kinds[1]:
        words = ["a probability" if kind and any(kind) else "a density" for kind in kinds]
        raise ValueError(
            f"{first!r} gives the data {words[0]} and {name!r} {words[1]}: they have no common "
            "scale; use likelihoods of one kind"
        )


def _observed(pair: Pair) -> torch.Tensor:
    """The observed values of each datum in ascending order, (n, values)."""
    local = [k for k in pair.observed if pair.sites[k].local]
    parts = [pair.values[k].reshape(pair.size, -1).double() for k in local]
    return torch.cat(parts, 1).sort(1).values


def _discrete(pair: Pair) -> list[bool] | None:
    with pair.still(), torch.random.fork_rng():
        trace = poutine.trace(pair.model).get_trace(*pair.args)
    try:
        return sorted(bool(trace.nodes[k]["fn"].support.is_discrete) for k in pair.observed)
    except NotImplementedError:
        return None
