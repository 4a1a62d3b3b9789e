"""Missing values of rows, given those that are there."""

import warnings
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.evaluation.pair import Pair, Terms
from ppl_vae.evaluation.programs import Data, Program, arguments_of, check_positive, evaluating
from ppl_vae.evaluation.samples import has_mean, observed_site, of_rows
from ppl_vae.program.missing import by_element, dependent, with_missing

__all__ = ["Method", "impute"]

Method = Literal["importance", "gibbs"]
"""How `impute` finds codes given the values that are there."""


def impute(
    model: Program,
    guide: Program,
    x: Data,
    draws: int = 0,
    method: Method = "gibbs",
    num_samples: int = 500,
    fill: Tensor | None = None,
    takes_missing: bool = False,
    plate: str | None = None,
    block: int = 8192,
) -> Tensor:
    r"""Rows with their missing values (NaN) at $E[x_{mis} | x_{obs}]$, or drawn given the rest.

    * `"importance"`: codes $z_k \sim q(z | x)$ at filled rows, or at the mask where the pair
      takes it, weighted by $w_k = p(x_{obs}, z_k) / q(z_k | x)$; the expectation is
      $\sum_k w_k E[x_{mis} | z_k] / \sum_k w_k$, and draws resample the codes by their weights.
      The bias is $-\mathrm{Cov}(w, w (f - \mu)) / (K \bar w^2)$ to first order, with f what is
      averaged and $\mu$ its mean: it falls as 1 / K, and is large where few weights dominate.
    * `"gibbs"`: a chain that proposes $z' \sim q(z | x)$ at the row as it is filled now, accepts
      it with probability $\min\{1, \frac{p(x, z') q(z | x)}{p(x, z) q(z' | x)}\}$ and draws
      $x_{mis} \sim p(x_{mis} | z)$. Its stationary law is $p(z, x_{mis} | x_{obs})$, whatever the
      guide; without the acceptance step (pseudo-Gibbs) it would be so only for an exact guide.
      The bias is that of the start, of which the first fifth of the chain is left out. The
      expectation averages $E[x_{mis} | z]$ over the rest.

    Both ask of the likelihood that its elements are independent given the latents.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows with NaN, or the tuple of the programs' positional arguments.
        draws: number of draws of each row, none for the expectation.
        method: see above.
        num_samples: number K of codes, or steps of the chain.
        fill: what the guide sees first in a missing value's place; the column's mean by default.
        takes_missing: whether the pair itself takes rows with NaN.
        plate: the data plate's name, where the pair leaves a choice.
        block: rows times draws held at once.

    Returns:
        `(n, *size)`, or `(n, draws, *size)`: what is there stays as it is.

    Raises:
        ValueError: for a guide without a density, or a likelihood of dependent elements.

    Warns:
        UserWarning: if the weights of some rows leave fewer than 10 effective draws, or a chain
            accepts fewer than one proposal in twenty.

    References:
        Rezende, Mohamed and Wierstra (2014), Stochastic backpropagation and approximate inference
        in deep generative models, arXiv:1401.4082, appendix F.
        Mattei and Frellsen (2018), Leveraging the exact likelihood of deep latent variable
        models, arXiv:1802.04826.
        Mattei and Frellsen (2019), MIWAE, arXiv:1812.02633.
    """
    check_positive(num_samples=num_samples, block=block)
    if method not in ("importance", "gibbs"):
        raise ValueError(f"method={method!r} is neither 'importance' nor 'gibbs'")
    args = arguments_of(x, model, guide)
    rows = args[0]
    incomplete = rows.isnan().reshape(len(rows), -1).any(1).nonzero()[:, 0]
    result = rows.clone() if not draws else rows[:, None].repeat_interleave(draws, 1)
    if not len(incomplete):
        return result
    fill = rows.nanmean(0).nan_to_num(0.0) if fill is None else fill
    with evaluating(model, guide):
        leaving_out = (model, guide) if takes_missing else with_missing(model, guide, fill)
        pair = Pair(*leaving_out, args, plate, block)
        if pair.deterministic:
            raise ValueError(
                "the guide is deterministic, so it proposes no codes: imputation needs a guide "
                "with a density"
            )
        site = pair.run(pair.sample).model[0][observed_site(pair)]
        if by_element(site.fn) is None and not hasattr(site.fn, "leave_out"):
            raise dependent(site.name, site.fn)
        # the mean of counts or classes is none: the chain starts at draws given the filled rows
        drawn = torch.cat([_x(terms, site.name, mean=False) for terms in pair.runs()])
        whole = (torch.where(rows.isnan(), drawn.reshape(rows.shape).to(rows), rows), *args[1:])
        pair = Pair(model, guide, whole, plate, block)
        if not pair.sliced:
            incomplete = torch.arange(len(rows), device=rows.device)
        mean = not draws and has_mean(pair)
        at_once = max(1, block // (num_samples if method == "importance" else 1))
        for part in incomplete.split(at_once if pair.sliced else len(rows)):
            few = pair.blocks.cut(part) if pair.sliced else whole
            missing = rows[part].isnan()
            if method == "importance":
                asked = (torch.where(missing, torch.nan, few[0]), *few[1:])
                asked_of = Pair(*leaving_out, asked, plate, block if pair.sliced else None)
                values = _weighted(asked_of, mean, draws, num_samples)
            else:
                values = _chain(pair.at(few), missing, mean, draws, num_samples)
            now = result[part]
            there = missing if not draws else missing[:, None].expand(now.shape)
            result[part] = torch.where(there, values.reshape(now.shape).to(now), now)
    return result


def _weighted(pair: Pair, mean: bool, draws: int, num_samples: int) -> Tensor:
    """Expectations of x, or draws `(n, draws, ...)`, by importance weights."""
    site, runs = observed_site(pair), list(pair.runs(num_samples, len(pair) * num_samples))
    log_w = [_log_weight(terms) for terms in runs]
    xs = [_x(terms, site, mean) for terms in runs]
    if pair.sliced:
        log_weights = log_w[0].view(len(pair), num_samples)
        values = xs[0].view(len(pair), num_samples, *xs[0].shape[1:])
    else:
        log_weights, values = torch.stack(log_w, 1), torch.stack(xs, 1)
    weights = log_weights.softmax(1)
    few = int((1 / weights.square().sum(1) < 10).sum())
    if few:
        warnings.warn(
            f"the weights of {few} of {len(weights)} rows leave fewer than 10 effective draws: "
            "give more num_samples, or method='gibbs'",
            stacklevel=3,
        )
    if not draws:
        return torch.einsum("nk,nk...->n...", weights.to(values), values)
    chosen = torch.multinomial(weights, draws, replacement=True)
    return values[torch.arange(len(values), device=values.device)[:, None], chosen]


def _chain(pair: Pair, missing: Tensor, mean: bool, draws: int, steps: int) -> Tensor:
    """Expectations of x, or draws `(n, draws, ...)`, along a chain for each row."""
    warm = steps // 5
    if draws > steps - warm:
        raise ValueError(f"{draws} draws of a chain of {steps} steps: give more num_samples")
    kept = {warm + (i + 1) * (steps - warm) // draws - 1 for i in range(draws)}
    site, args = observed_site(pair), pair.blocks.args
    rows = torch.arange(len(missing)) if pair.sliced else None
    total, taken, accepted = torch.zeros(()), list[Tensor](), 0.0
    values: dict[str, Tensor] = {}
    for step in range(steps):
        here = pair.at(args)
        now = here.run(rows)
        z = {name: here.flatten(now.guide[name]) for name in here.guide_sites}
        x, centre = _x(now, site, mean=False), _x(now, site, mean) if mean else None
        if values:
            old = here.run(rows, {n: here.shaped(n, value) for n, value in values.items()})
            log_ratio = _log_weight(now) - _log_weight(old)
            accept = torch.rand_like(log_ratio).log() < log_ratio
            accepted += float(accept.double().mean())
            z = {name: _chosen(accept, value, values[name]) for name, value in z.items()}
            x = _chosen(accept, x, _x(old, site, mean=False))
            centre = None if centre is None else _chosen(accept, centre, _x(old, site, mean))
        values = z
        args = (torch.where(missing, x.reshape(missing.shape).to(args[0]), args[0]), *args[1:])
        if step in kept:
            taken.append(args[0])
        if step >= warm:
            total = total + (x if centre is None else centre)
    if accepted < 0.05 * (steps - 1):
        warnings.warn(
            f"the chain accepts {accepted / max(1, steps - 1):.1%} of its proposals: the guide is "
            "far from the posterior; give more num_samples, or method='importance'",
            stacklevel=3,
        )
    return torch.stack(taken, 1) if draws else total / (steps - warm)


def _chosen(accept: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accept.reshape(-1, *[1] * (new.dim() - 1)), new, old)


def _log_weight(terms: Terms) -> Tensor:
    return terms.log_likelihood.double() + terms.log_prior - terms.log_q


def _x(terms: Terms, site: str, mean: bool) -> Tensor:
    """The means of x by row, or draws."""
    sites = [part[site] for part in terms.model]
    if not mean:
        sites = [replace(found, value=found.fn.sample()) for found in sites]
    return torch.cat([of_rows(terms.pair, found, mean) for found in sites])
