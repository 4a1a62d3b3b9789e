"""From a Pyro model and guide to ArviZ."""

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.arguments import checked_seed
from ppl_vae.diagnostics.densities import has_density
from ppl_vae.diagnostics.importance import check_evidence, check_proposal, unmatched
from ppl_vae.diagnostics.marginal import marginal
from ppl_vae.diagnostics.pair import Draws, Pair
from ppl_vae.diagnostics.sites import draw_count
from ppl_vae.diagnostics.variables import Names, Variable, array_of, assemble, label_of
from ppl_vae.evaluation.programs import Data, Program, seeded

__all__ = ["GROUPS", "to_arviz"]

GROUPS = (
    "posterior",
    "posterior_predictive",
    "log_likelihood",
    "sample_stats",
    "prior",
    "prior_predictive",
    "observed_data",
    "constant_data",
)
"""The groups that `to_arviz` makes, unless asked for some of them."""

_DRAWN = ("latent", "missing", "deterministic")


def to_arviz(
    model: Program,
    guide: Program,
    x: Data,
    *,
    draws: int = 200,
    chains: int = 1,
    prior_draws: int | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    groups: Collection[str] | None = None,
    log_likelihood: Literal["marginal", "conditional", "pointwise"] = "marginal",
    inner_draws: int = 100,
    seed: int | None = None,
    plate: str | None = None,
    block: int = 8192,
) -> Any:
    r"""Draws from a model and its guide as an object of ArviZ.

    Every variable has dimensions `(chain, draw, data plate, other plates, *event)`; the data
    plate's dimension bears the plate's name. Sites outside the data plate lack it, and all do
    where no latent is in a plate with an observation, which makes all data one row. The groups:

    * `posterior`: latents drawn from the guide, the model's deterministic sites and data missing
      under an `obs_mask`;
    * `posterior_predictive`: observed sites drawn from the model at those latents;
    * `log_likelihood`: $\log p(x_i \mid \theta)$ of each draw and datum, nats, given the
      latents $\theta$ outside the data plate. Where there are latents inside it they are
      integrated out, see below; where there are no others there is no such group;
    * `sample_stats`: for each draw and datum, in nats, `log_p` is $\log p(x_i, z_i)$,
      `log_q` is $\log q(z_i \mid x_i)$, `log_weight` their difference, given the latents
      outside the plate, whose own terms are `log_p_global` and `log_q_global`; `lp` is the log
      joint density of everything. A guide without a density, or with a point mass, has no
      `log_q` and no `log_weight`; one with latents that the model lacks has a `log_q` of both
      and no `log_weight`;
    * `prior`, `prior_predictive`: the same sites drawn from the model alone;
    * `observed_data`: the observed values; `constant_data`: the other tensors and numbers among
      the arguments, under their names in the model's signature.

    Leave-one-out cross-validation, `arviz.loo` and `arviz.compare`, asks what the other data say
    of $x_i$. A latent $z_i$ of its own was sampled at $x_i$, so that
    $\log p(x_i \mid z_i)$ is how well $x_i$ is fitted, and an auto-encoder without
    regularisation comes out first. Therefore `log_likelihood` integrates it, for each draw s by

    $$\log \hat p(x_i \mid \theta_s) = \log \frac1K \sum_{k=1}^K
      \frac{p(x_i, z_{ik} \mid \theta_s)}{q(z_{ik} \mid x_i, \theta_s)},
      \quad z_{ik} \sim q(z \mid x_i, \theta_s)$$

    over all observed sites jointly, with the same noise for every s. It comes out too low by
    $V[w] / (2 K \bar w^2)$ nats to first order; the group's attributes `bias` and
    `inner_draws` say its mean and K. Without $\theta$, leaving $x_i$ out leaves
    $p(x_i)$ for every draw: `ppl_vae.compare` ranks such models by it.

    Densities obey masks and ignore scales, which weigh terms of a loss.

    Args:
        model, guide: Pyro callables of the same arguments with a full vectorised data plate.
        x: rows of data, or the tuple of the callables' arguments.
        draws: number of posterior draws S of each chain.
        chains: how many times they are drawn, with the seeds `seed`, `seed + 1`, ... Draws of a
            guide are independent, so that chains differ by its noise alone: R-hat far from 1
            says that there are too few. The prior has one.
        prior_draws: number of prior draws, S if None.
        coords: labels of dimensions, by dimension. Others are counted from 0.
        dims: names of a site's event dimensions, by site; otherwise `z_dim_0`, `z_dim_1`, ...
        groups: which groups to make; None makes all that the pair has. `posterior_predictive` is
            the large one: S n D numbers. `log_likelihood` of latents inside and outside the plate
            is the slow one: S runs of K draws.
        log_likelihood: `conditional` puts $\log p(x_i \mid z_i, \theta)$ of each observed
            site there, which is not for `arviz.loo`; `pointwise` that of each element of it,
            $\log p(x_{ij} \mid z_i, \theta)$, as `arviz.loo_pit` wants it: S n D numbers.
        inner_draws: number K of draws of a datum's latents for each draw, at least 2.
        seed: makes the draws repeatable and leaves the global generator alone.
        plate: name of the data plate, where several plates could be it.
        block: how many draws times data are run at once. Draws are vectorised where a trial shows
            that the pair allows it, and run one by one otherwise.

    Returns:
        `arviz.InferenceData` with ArviZ 0.23, `xarray.DataTree` with ArviZ 1.x.

    Raises:
        NoDataPlate: if no plate or more than one could be the data's.
        ValueError: if the data plate is subsampled, if a latent differs between model and guide,
            if `coords`, `dims` or `groups` name what is not there or have the wrong length, or if
            `groups` names `log_likelihood` where the marginal one is not defined or the guide has
            no density to integrate by.

    Warns:
        UserWarning: if k-hat calls the guide no usable proposal for the marginal log-likelihood.

    References:
        Kumar et al. (2019), ArviZ: a unified library for exploratory analysis of Bayesian models
        in Python, doi:10.21105/joss.01143.
        Merkle, Furr and Rabe-Hesketh (2019), Bayesian comparison of latent variable models:
        conditional versus marginal likelihoods, arXiv:1802.04452.
    """
    draw_count(draws)
    draw_count(inner_draws, 2, "inner_draws")
    draw_count(chains, 1, "chains")
    if log_likelihood not in ("marginal", "conditional", "pointwise"):
        raise ValueError(
            "log_likelihood must be 'marginal', 'conditional' or 'pointwise', got "
            f"{log_likelihood!r}"
        )
    wanted = [name for name in GROUPS if groups is None or name in groups]
    if unknown := sorted(set(groups or ()) - set(GROUPS)):
        raise ValueError(f"unknown groups {unknown}: choose from {list(GROUPS)}")
    pair = Pair(model, guide, x, plate)
    integrate = log_likelihood == "marginal" and pair.plate is not None
    if integrate and "log_likelihood" in wanted and (reason := _no_marginal(pair)):
        if groups is not None:
            raise ValueError(f"no log_likelihood: {reason}")
        wanted.remove("log_likelihood")
    names = Names(pair, dims or {}, chains)
    made: dict[str, dict[str, Variable]] = {}
    attrs: dict[str, dict[str, Any]] = {}
    with seeded(seed):
        if {"posterior", "posterior_predictive", "log_likelihood", "sample_stats"} & set(wanted):
            predict = "posterior_predictive" in wanted
            single = log_likelihood == "pointwise" and "log_likelihood" in wanted
            drawn = _gather(pair, draws, chains, seed, block, predict, single)
            made.update(_posterior(pair, names, drawn))
            if integrate and "log_likelihood" in wanted and not drawn.log_q:
                if groups is not None:
                    raise ValueError("no log_likelihood: the guide's sites have no log-density")
                del made["log_likelihood"]
            elif integrate and "log_likelihood" in wanted:
                inner = marginal(pair, drawn.values, inner_draws, block)
                made["log_likelihood"] = {_joint_name(pair): names.by_datum(inner.log_p)}
                attrs["log_likelihood"] = {
                    "estimator": "importance sampling of a datum's latents from the guide",
                    "inner_draws": inner.inner_draws,
                    "bias": inner.bias,
                }
        if {"prior", "prior_predictive"} & set(wanted):
            count = draw_count(prior_draws or draws, 1, "prior_draws")
            values = Draws.gathered(
                _placed(pair.prior(count, block=block), 0, None), count, pair.size
            ).values
            once = Names(pair, dims or {}, 1)
            made["prior"] = once.drawn(values, _DRAWN)
            made["prior_predictive"] = once.drawn(values, ("observed",))
    made.update(_data(pair, names))
    kept = {name: made[name] for name in wanted if made.get(name)}
    return assemble(kept, dict(coords or {}), attrs)


def _no_marginal(pair: Pair) -> str:
    """Why a pair with latents in the data plate has no marginal log-likelihood, if it has none."""
    if not pair.globals:
        return (
            f"all latents {pair.locals} are those of a datum, so that p(x_i) given the other data "
            "is one number and no column of draws: compare models by it with ppl_vae.compare, or "
            "ask for log p(x_i | z_i) with log_likelihood='conditional', not for arviz.loo"
        )
    try:
        check_proposal(pair)
        check_evidence(pair)
    except ValueError as error:
        return str(error)
    return ""


def _gather(
    pair: Pair,
    draws: int,
    chains: int,
    seed: int | None,
    block: int,
    predict: bool,
    single: bool,
) -> Draws:
    """The draws of all chains, one chain after the other."""

    def blocks() -> Iterator[tuple[int, Tensor | None, Draws]]:
        for chain in range(chains):
            if seed is not None:
                torch.manual_seed(checked_seed(seed) + chain)
            for rows, part in pair.parts(block):
                where = None if part is pair else rows
                made = part.posterior(draws, block=block, predict=predict, single=single)
                yield from _placed(made, chain * draws, where)

    return Draws.gathered(blocks(), chains * draws, pair.size)


def _placed(
    parts: Iterable[Draws], start: int, rows: Tensor | None
) -> Iterator[tuple[int, Tensor | None, Draws]]:
    """Blocks with the places that they belong to, as `Draws.gathered` takes them."""
    for part in parts:
        yield start, rows, part
        start += len(next(iter(part.values.values())))


def _posterior(pair: Pair, names: Names, draws: Draws) -> dict[str, dict[str, Variable]]:
    return {
        "posterior": names.drawn(draws.values, _DRAWN),
        "posterior_predictive": names.drawn(draws.values, ("observed",)),
        "log_likelihood": names.drawn(draws.elements, ("observed",))
        if draws.elements
        else names.drawn(draws.log_p, ("observed",), event=False),
        "sample_stats": _stats(names, draws),
    }


def _stats(names: Names, draws: Draws) -> dict[str, Variable]:
    pair, stats = names.pair, dict[str, Tensor]()
    sides = (("log_p", draws.log_p, pair.sites), ("log_q", draws.log_q, pair.guide_sites))
    for label, terms, sites in sides:
        inside = {k: v for k, v in terms.items() if sites[k].local}
        if inside and (label == "log_p" or has_density(pair, local=True)):
            stats[label] = pair.per_datum(terms, sites)
        rest = [v.reshape(len(v), -1).sum(1) for k, v in terms.items() if k not in inside]
        if rest and (label == "log_p" or has_density(pair, local=False)):
            stats[f"{label}_global"] = torch.stack(rest).sum(0)
    if "log_q" in stats and not unmatched(pair):
        stats["log_weight"] = stats["log_p"] - stats["log_q"]
    stats["lp"] = torch.stack([v.reshape(len(v), -1).sum(1) for v in draws.log_p.values()]).sum(0)
    return {k: names.by_datum(v) for k, v in stats.items()}


def _joint_name(pair: Pair) -> str:
    return label_of(pair.observed[0]) if len(pair.observed) == 1 else "joint"


def _data(pair: Pair, names: Names) -> dict[str, dict[str, Variable]]:
    observed = {label_of(k): names.variable(k, pair.values[k], drawn=False) for k in pair.observed}
    constant: dict[str, Variable] = {}
    for label, arg in zip(_arguments(pair), pair.args, strict=True):
        if isinstance(arg, bool | int | float):
            constant[label] = ((), np.asarray(arg))
        elif isinstance(arg, Tensor) and not pair.is_observed(arg):
            first = (pair.plate,) if pair.plate and pair.is_data(arg) else ()
            rest = tuple(f"{label}_dim_{i}" for i in range(arg.dim() - len(first)))
            constant[label] = (first + rest, array_of(arg))
    return {"observed_data": observed, "constant_data": constant}


def _arguments(pair: Pair) -> list[str]:
    """Names of the positional arguments."""
    fallback = [f"arg_{i}" for i in range(len(pair.args))]
    try:
        bound = inspect.signature(pair.model).bind(*pair.args)
    except (TypeError, ValueError):
        return fallback
    named = list(bound.signature.parameters)
    star = [p.kind is p.VAR_POSITIONAL for p in bound.signature.parameters.values()]
    return fallback if any(star) else named[: len(pair.args)]
