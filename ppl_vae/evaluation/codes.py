"""Posterior means, variances and draws of every datum's code, and their total covariance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.metric import Metric, Subject
from ppl_vae.evaluation.pair import Pair, Terms
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.program.wrapping import has_moments
from ppl_vae.records import Record

__all__ = [
    "METRICS",
    "ActiveUnits",
    "Codes",
    "active_units",
    "codes_of",
    "log_det",
    "posterior_codes",
    "train_codes_of",
]


@dataclass(frozen=True, repr=False)
class Codes(Record):
    """The codes of n data: the joint of all local latents that are not missing data (d numbers).

    Attributes:
        mean: posterior means under the guide, `(n, d)`.
        variance: posterior variances, `(n, d)`; zero for a deterministic guide.
        sample: one draw from the guide per datum, `(n, d)`.
        covariance: the posterior covariance averaged over data, `(d, d)`.
        slices: the columns of each latent site.
    """

    mean: Tensor
    variance: Tensor
    sample: Tensor
    covariance: Tensor
    slices: dict[str, slice]

    def __len__(self) -> int:
        return len(self.mean)

    def log_det(self) -> Estimate:
        """`log_det` of these codes with correlations within a datum counted."""
        return log_det(self.mean, covariance=self.covariance)


def posterior_codes(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 32,
    block: int | None = 1024,
    plate: str | None = None,
) -> Codes:
    r"""The means, variances and a draw of q(z|x) for each datum.

    They are the distributions' own moments where each latent's conditional is free of the other
    latents. In a chain guide they are averaged over runs of the guide by the law of total
    variance, $V[z|x] = E_s V[z|x,s] + V_s E[z|x,s]$, unbiased for both moments.

    Args:
        model: the generative program; it is run on two rows only, to tell latents from auxiliary
            sites.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        num_samples: runs of the guide where its latents depend on each other.
        block: rows held at once.
        plate: the data plate's name, where the pair leaves a choice.
    """
    check_positive(num_samples=num_samples, block=block)
    pair = Pair(model, guide, x, plate, block)
    means, variances, samples = [], [], []
    total = torch.zeros(())
    with evaluating(model, guide):
        exact = pair.independent and _moments(pair.run(pair.sample)) is not None
        if not exact and num_samples < 2:
            raise ValueError("num_samples is 1: these latents' variances need 2 or more")
        for terms in pair.runs():
            found = _exact(terms) if exact else _averaged(terms, num_samples)
            mean, variance, covariance, sample = found
            means.append(mean)
            variances.append(variance)
            samples.append(sample)
            total = total + covariance
    return Codes(
        torch.cat(means),
        torch.cat(variances),
        torch.cat(samples),
        total / len(pair),
        pair.slices,
    )


def log_det(
    mean: Tensor, variance: Tensor | None = None, covariance: Tensor | None = None
) -> Estimate:
    r"""The log-determinant of the aggregate posterior's covariance, per latent dimension.

    $$\tfrac{1}{d} \log\det\left[\mathrm{cov}(\mathrm{mean}) +
      \mathrm{diag}(\overline{\mathrm{variance}})\right]$$

    It is 0 for an aggregate with the covariance of a standard normal, negative for one that is
    too narrow. The covariance of the means divides by n - 1. The logarithm biases the value by
    about $-(d+1)/2n$ for Gaussian means without variance, less with it; the standard error is
    from the influence $(m_i - \bar m)^T S^{-1} (m_i - \bar m) / d$ of each datum.

    Args:
        mean: posterior means `(n, d)`.
        variance: posterior variances `(n, d)`; none for points.
        covariance: the mean posterior covariance `(d, d)`, in place of `variance` where a guide
            has correlations.

    Raises:
        ValueError: for fewer than two rows, or both `variance` and `covariance`.
    """
    if mean.dim() != 2 or len(mean) < 2:
        raise ValueError(f"means of shape {tuple(mean.shape)}: (n, d) with n of 2 or more needed")
    if variance is not None and covariance is not None:
        raise ValueError("give variance or covariance, not both")
    n, d = mean.shape
    mean = mean.double()
    centred = mean - mean.mean(0)
    within = torch.zeros(d, d, dtype=mean.dtype, device=mean.device)
    if variance is not None:
        if variance.shape != mean.shape:
            raise ValueError(
                f"variance {tuple(variance.shape)} and mean {tuple(mean.shape)} differ"
            )
        within = variance.double().mean(0).diag()
    elif covariance is not None:
        within = covariance.double()
    total = centred.T @ centred / (n - 1) + within
    value = float(torch.linalg.slogdet(total).logabsdet) / d
    precision = torch.linalg.pinv(total, hermitian=True)
    influence = torch.einsum("ni,ij,nj->n", centred, precision, centred)
    if variance is not None:
        influence = influence + variance.double() @ precision.diagonal()
    error = float(influence.std()) / d / n**0.5
    return Estimate(
        value, error, error, note=f"bias between {-(d + 1) / (2 * n):.1g} (points) and 0"
    )


ACTIVE = 0.01
"""Variance of its mean below which a code is called inactive, in squared units of z."""


@dataclass(frozen=True, repr=False)
class ActiveUnits(Record):
    """Active latent dimensions: how many, and the variance of each dimension's mean `(d,)`."""

    count: int
    variances: Tensor


def active_units(mean: Tensor, threshold: float = ACTIVE) -> ActiveUnits:
    r"""Counts latent dimensions whose posterior mean varies, $V_x[E_{q(z|x)} z_j] >$ threshold.

    Args:
        mean: posterior means `(n, d)`, from `posterior_codes`.
        threshold: in squared latent units; the reference's 0.01 by default.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders,
        arXiv:1509.00519.
    """
    if len(mean) < 2:
        raise ValueError("active units need two data or more")
    variances = mean.double().var(0)
    return ActiveUnits(int((variances > threshold).sum()), variances)


Moments = tuple[Tensor, Tensor, Tensor]


def _moments(terms: Terms) -> Moments | None:
    """Conditional means and variances `(n, d)` and the summed covariance; None if unknown."""
    means, variances, blocks = [], [], []
    for site in (terms.guide[name] for name in terms.pair.codes):
        fn = site.fn
        if not has_moments(fn):
            return None
        try:
            mean, variance = fn.mean, fn.variance
        except (NotImplementedError, AttributeError):
            return None
        means.append(terms.pair.flatten(site, mean))
        variances.append(terms.pair.flatten(site, variance))
        full = getattr(fn, "covariance_matrix", None)
        if isinstance(full, Tensor) and len(fn.batch_shape) == 1:
            # A multivariate Student t gives its scale matrix by that name, short of the variances.
            ratio = (variance / full.diagonal(dim1=-2, dim2=-1)).sqrt()
            full = full * ratio[..., None] * ratio[..., None, :]
            blocks.append(full.expand(*fn.batch_shape, *full.shape[-2:]).sum(0))
        else:
            blocks.append(variances[-1].sum(0).diag())
    return torch.cat(means, -1), torch.cat(variances, -1), torch.block_diag(*blocks)


Block = tuple[Tensor, Tensor, Tensor, Tensor]


def _exact(terms: Terms) -> Block:
    moments = _moments(terms)
    assert moments is not None
    return *moments, terms.codes


def _averaged(terms: Terms, num_samples: int) -> Block:
    centres: list[Tensor] = []
    draws: list[Tensor] = []
    variance = torch.zeros(())
    for i in range(num_samples):
        run = terms if i == 0 else terms.pair.run(terms.rows)
        moments = _moments(run)
        draws.append(run.codes)
        centres.append(draws[-1] if moments is None else moments[0])
        if moments is not None:
            variance = variance + moments[1] / num_samples
    means = torch.stack(centres)
    # Each site's moments are given its own parents, so what they leave out between sites is only
    # in the draws.
    spread = torch.stack(draws) - torch.stack(draws).mean(0)
    covariance = torch.einsum("snd,sne->de", spread, spread) / (num_samples - 1)
    return means.mean(0), variance + means.var(0), covariance, draws[-1]


def codes_of(subject: Subject) -> Codes:
    """Those of the rows looked at."""
    return posterior_codes(*subject.pair, subject.args)


def train_codes_of(subject: Subject) -> Codes:
    """Those of the training rows."""
    return posterior_codes(*subject.pair, subject.arguments("train"))


def _active(subject: Subject) -> Estimate:
    units = active_units(subject.once(codes_of).mean)
    return Estimate(units.count, note=f"of {len(units.variances)} dimensions")


METRICS = (
    Metric(
        "active_units",
        "Active units",
        "dimensions",
        "variance of the posterior mean above 0.01",
        "information",
        _active,
        when="fit",
    ),
    Metric(
        "log_det",
        "log det of the covariance, over d",
        "nats per dimension",
        "0 as for N(0, I)",
        "match",
        lambda s: s.once(codes_of).log_det(),
        when="fit",
    ),
)
