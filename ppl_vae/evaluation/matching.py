"""The match of the aggregate posterior with the prior: MMD over all data."""

import math
from dataclasses import dataclass, replace

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.metric import Metric, Subject
from ppl_vae.evaluation.mixture import MULTIVARIATE_NORMAL
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.evaluation.ustatistic import MMDTerms, PairSums, pair_sums
from ppl_vae.objectives.divergences.kernels import RBF, Kernel
from ppl_vae.program.sites import Site
from ppl_vae.records import Record

__all__ = ["METRICS", "Discrepancy", "full_mmd", "mmd"]

Gaussian = tuple[Tensor, Tensor]
"""A mean `(d,)` and a covariance `(d, d)`."""


@dataclass(frozen=True, repr=False)
class Discrepancy(Record):
    """Both statistics of one squared MMD, without unit.

    Attributes:
        u: unbiased; negative about half the time where the two laws are equal.
        v: biased upward, each row counted against itself.
    """

    u: Estimate
    v: Estimate


def mmd(
    codes: Tensor,
    prior: Tensor | TorchDistributionMixin,
    kernel: Kernel | None = None,
    block: int = 512,
) -> Discrepancy:
    r"""Squared MMD of codes against a prior, over all pairs, in memory that is linear in rows.

    $$\mathrm{MMD}^2_U = \frac{1}{n(n-1)} \sum_{i \ne j} k(z_i, z_j)
      - \frac{2}{nm} \sum_{ij} k(z_i, y_j) + \frac{1}{m(m-1)} \sum_{i \ne j} k(y_i, y_j)$$

    and the V-statistic with the diagonals and $n^2, m^2$. A Gaussian prior enters in closed form:
    the terms with y are expectations, without error, and cost n rather than nm and m^2. U is
    unbiased; V's bias is $(1/n + 1/m)(k(0) - E k)$, without 1/m in closed form.

    The standard error keeps both orders of the Hoeffding decomposition, so it holds where the
    laws are equal (error of order 1/n, about a fifth too large there) and where they differ
    ($1/\sqrt{n}$).

    Args:
        codes: draws of the aggregate posterior, one per datum, `(n, d)`.
        prior: draws `(m, d)`, or a distribution over codes, of empty batch shape; one that is
            Gaussian enters in closed form, another is drawn n times.
        kernel: RBF with the paper's bandwidth by default. `"median"` is taken from the first
            2,000 rows.
        block: rows and columns of the kernel matrix held at once: a few times 4 block^2 bytes,
            which are passed over several times and so had better fit a processor's cache.

    Raises:
        ValueError: for codes or draws that are not matrices of equal width and two rows or more.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test, JMLR 13.
    """
    check_positive(block=block)
    kernel = RBF() if kernel is None else kernel
    gaussian = None if isinstance(prior, Tensor) else _as_gaussian(prior)
    if not isinstance(prior, Tensor):
        prior = prior.sample((len(codes),)) if gaussian is None else gaussian[0][None]
    for name, rows in (("codes", codes), ("prior draws", prior)):
        few = rows.dim() != 2 or (len(rows) < 2 and (gaussian is None or rows is codes))
        if few or rows.shape[1] != codes.shape[1]:
            raise ValueError(
                f"{name} of shape {tuple(rows.shape)}: (rows, {codes.shape[-1]}) with 2 rows or "
                "more are needed"
            )
    with torch.no_grad():
        codes = codes.detach()
        prior = prior.detach().to(codes)
        sample = (codes[:2000],) if gaussian is not None else (codes[:2000], prior[:2000])
        length = kernel.squared_length(codes.shape[1], *sample)
        # Distances by matrix products lose digits far from the origin.
        centre = codes.mean(0)
        within = _sums(kernel, codes - centre, codes - centre, length, block, same=True)
        if gaussian is not None:
            return _closed(kernel, codes, gaussian, length, within, block)
        cross = _sums(kernel, codes - centre, prior - centre, length, block, same=False)
        own = _sums(kernel, prior - centre, prior - centre, length, block, same=True)
    return _sampled(kernel.at_zero, MMDTerms(within, cross, own))


def full_mmd(
    model: Program,
    guide: Program,
    x: Data,
    kernel: Kernel | None = None,
    draws: int | None = None,
    closed: bool | None = None,
    block: int | None = 1024,
    plate: str | None = None,
) -> Discrepancy:
    """Squared MMD between the aggregate posterior of all data and the prior; see `mmd`.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        kernel: RBF with the paper's bandwidth by default.
        draws: prior draws; as many as data by default. Asking for draws turns the closed form off.
        closed: the prior in closed form; by default where it is one Gaussian for all data.
        block: rows held at once by the programs.
        plate: the data plate's name, where the pair leaves a choice.

    Raises:
        ValueError: if the closed form is asked of a prior that is not one Gaussian, or the prior
            depends on the datum, in which case a match of the marginals says nothing of the
            conditionals.
    """
    check_positive(block=block, draws=1 if draws is None else draws)
    pair = Pair(model, guide, x, plate, block)
    with evaluating(model, guide):
        gaussian = prior_gaussian(pair)
        if closed is None:
            closed = gaussian is not None and draws is None
        if closed and gaussian is None:
            raise ValueError(
                f"closed=True needs a prior of {', '.join(pair.codes)} that is one Gaussian for "
                "all data: use draws instead"
            )
        codes = torch.cat([terms.codes for terms in pair.runs()])
        if closed:
            assert gaussian is not None
            return mmd(codes, torch.distributions.MultivariateNormal(*gaussian), kernel)
        m = len(pair) if draws is None else draws
        found: list[Tensor] = []
        while sum(map(len, found)) < m:
            for rows in pair.split():
                found.append(pair.joint(pair.run_prior(rows)))
                if sum(map(len, found)) >= m:
                    break
    return mmd(codes, torch.cat(found)[:m], kernel)


def fixed_prior(pair: Pair) -> list[Site] | None:
    """The prior's sites, on some rows, if none moves with another latent; None if one does.

    Raises:
        ValueError: if the prior differs between those rows: at most 1,000, evenly from the data.
    """
    rows = pair.index[torch.linspace(0, len(pair) - 1, min(len(pair), 1000)).long()]
    first, second = (pair.run_prior(rows) for _ in range(2))
    alike = {}
    for name in pair.latents:
        site = first[name]
        axis = pair.dim_of(site) - site.event_dim
        alike[name] = site.value.narrow(axis, 0, 1).expand(site.shape)
    # With the first row's latents in every row, priors that still differ do so by data.
    level = pair.run_prior(rows, alike)
    moves = False
    for name in pair.codes:
        site = level[name].unmasked()
        log_p = pair.log_prob(site)
        if not torch.allclose(log_p, log_p[:1].expand_as(log_p), rtol=1e-4, atol=1e-4):
            raise ValueError(
                f"the prior of {name!r} differs between data: the match or the information of "
                "the marginals says nothing of the conditionals"
            )
        again = pair.log_prob(replace(second[name].unmasked(), value=site.value))
        moves = moves or not torch.allclose(log_p, again, rtol=1e-4, atol=1e-4)
    return None if moves else [first[name] for name in pair.codes]


def prior_gaussian(pair: Pair) -> Gaussian | None:
    """The joint prior of the local latents as one Gaussian, or None where it is not one."""
    sites = fixed_prior(pair)
    if sites is None:
        return None
    means, covariances = [], []
    for site in sites:
        fn = site.fn
        base = fn
        while isinstance(base, torch.distributions.Independent):
            base = base.base_dist
        if isinstance(base, torch.distributions.Normal):
            covariance = pair.flatten(site, fn.variance)[0].diag()
        elif isinstance(base, MULTIVARIATE_NORMAL) and len(fn.batch_shape) == 1:
            covariance = fn.covariance_matrix[0]
        else:
            return None
        means.append(pair.flatten(site, fn.mean)[0])
        covariances.append(covariance)
    return torch.cat(means), torch.block_diag(*covariances)


def _as_gaussian(fn: TorchDistributionMixin) -> Gaussian | None:
    base = fn.base_dist if isinstance(fn, torch.distributions.Independent) else fn
    if isinstance(base, torch.distributions.Normal):
        return base.loc.reshape(-1), base.scale.square().reshape(-1).diag()
    if isinstance(base, MULTIVARIATE_NORMAL):
        return base.loc.reshape(-1), base.covariance_matrix.reshape(2 * base.event_shape)
    return None


def _expected(kernel: Kernel, delta: Tensor, covariance: Tensor, length: Tensor | float) -> Tensor:
    r"""$E k(\lVert \delta + u \rVert^2)$ for Gaussian u, by the kernel's mixture of Gaussians.

    In the eigenbasis of the covariance each node of variance s gives
    $\prod_k (1 + \lambda_k / s)^{-1/2} \exp(-\delta_k^2 / 2(s + \lambda_k))$.
    """
    weights, multipliers = (delta.new_tensor(v) for v in kernel.mixture())
    scales = multipliers * length
    values, basis = torch.linalg.eigh(covariance)
    wide = values.clamp_min(0)[:, None] + scales
    shrink = torch.log(wide / scales).sum(0)
    exponent = (delta @ basis).square() @ wide.reciprocal()
    return torch.exp(-0.5 * (exponent + shrink)) @ weights


def _sums(
    kernel: Kernel, a: Tensor, b: Tensor, length: Tensor | float, block: int, same: bool
) -> PairSums:
    # One matrix product gives |a|^2 - 2 a.b + |b|^2.
    left = torch.cat([a, a.square().sum(1, keepdim=True), a.new_ones(len(a), 1)], 1)
    right = torch.cat([b * -2, b.new_ones(len(b), 1), b.square().sum(1, keepdim=True)], 1)
    if isinstance(kernel, RBF):
        return pair_sums(torch.exp_, left / (-2 * length), right, block, same)
    return pair_sums(
        lambda squares: kernel(squares.clamp_min_(0), length), left, right, block, same
    )


def _sampled(at_zero: float, terms: MMDTerms) -> Discrepancy:
    n, m = len(terms.zz.rows), len(terms.yy.rows)
    bias = (at_zero - terms.zz.mean) / n + (at_zero - terms.yy.mean) / m
    return _both(terms.value, bias, terms.variance(), f"{n} codes against {m} prior draws")


def _closed(
    kernel: Kernel,
    codes: Tensor,
    prior: Gaussian,
    length: Tensor | float,
    zz: PairSums,
    block: int,
) -> Discrepancy:
    n = len(codes)
    mean, covariance = (v.to(codes).double() for v in prior)
    cross = torch.cat(
        [
            _expected(kernel, rows - mean, covariance, length)
            for rows in codes.double().split(block)
        ]
    )
    own = float(_expected(kernel, torch.zeros_like(mean)[None], 2 * covariance, length))
    u = zz.mean - 2 * float(cross.mean()) + own
    degenerate = zz.degenerate
    variance = 2 * degenerate / (n * (n - 1))
    variance += 4 * max(float((zz.rows - cross).var()) - degenerate / (n - 1), 0.0) / n
    note = f"{n} codes against the prior in closed form"
    return _both(u, (kernel.at_zero - zz.mean) / n, variance, note)


def _both(u: float, bias: float, variance: float, note: str) -> Discrepancy:
    error = math.sqrt(variance)
    return Discrepancy(
        u=Estimate(u, error, error, note=f"U-statistic, {note}"),
        v=Estimate(u + bias, error, error, bound="upper", note=f"V-statistic, {note}"),
    )


def _mmd(subject: Subject) -> Discrepancy:
    return full_mmd(*subject.pair, subject.args)


METRICS = (
    Metric(
        "mmd_u",
        "MMD², U-statistic",
        "",
        "unbiased; 0 where they match",
        "match",
        lambda s: s.once(_mmd).u,
        when="fit",
    ),
    Metric(
        "mmd_v",
        "MMD², V-statistic",
        "",
        "biased upward by about 1/n",
        "match",
        lambda s: s.once(_mmd).v,
    ),
)
