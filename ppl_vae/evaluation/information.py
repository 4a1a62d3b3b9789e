"""Mutual information of data and codes, and the parts of the ELBO's rate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppl_vae.evaluation.estimate import Estimate, mean_of
from ppl_vae.evaluation.matching import fixed_prior
from ppl_vae.evaluation.metric import Inapplicable, Metric, Subject
from ppl_vae.evaluation.mixture import Mixture, univariate
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.program.density import density
from ppl_vae.program.sites import Site
from ppl_vae.records import Record

__all__ = ["METRICS", "MutualInformation", "Surgery", "mutual_information", "surgery"]

CAPPED = 0.98


@dataclass(frozen=True, repr=False)
class MutualInformation(Record):
    """A sandwich of the mutual information I(x; z) in nats.

    Attributes:
        lower: the InfoVAE estimator; never above `log_m`.
        upper: the leave-one-out bound, or the mean rate where `capped`; its note says which.
        rate: the mean rate, an upper bound that is loose by KL(q(z) || p(z)).
        log_m: the cap, log M.
        capped: whether `lower` is within 2% of the cap, so that only the upper bound is news.
    """

    lower: Estimate
    upper: Estimate
    rate: Estimate
    log_m: float
    capped: bool

    def __str__(self) -> str:
        return f"{self.lower} {self.upper}" + (" (capped)" if self.capped else "")


@dataclass(frozen=True, repr=False)
class Surgery(Record):
    """The rate and its parts, each a mean over data in nats; see `surgery`.

    Attributes:
        rate: the mean of log q(z|x) - log p(z).
        mutual_information: of log q(z|x) - log q(z).
        marginal_kl: of log q(z) - log p(z).
        total_correlation: of log q(z) - sum_j log q(z_j); None where q(z|x) has no marginals.
        dimension_wise: of sum_j log q(z_j) - log p(z_j); None where p or q has no marginals.
        per_dimension: the terms of `dimension_wise`, `(d,)`.
    """

    rate: Estimate
    mutual_information: Estimate
    marginal_kl: Estimate
    total_correlation: Estimate | None
    dimension_wise: Estimate | None
    per_dimension: Tensor | None


def mutual_information(
    model: Program,
    guide: Program,
    x: Data,
    num_data: int | None = None,
    block: int | None = 1024,
    plate: str | None = None,
) -> MutualInformation:
    r"""Bounds the mutual information of x and z under the guide from both sides.

    With one $z_i \sim q(z | x_i)$ for each of M data,

    $$\hat I = \frac{1}{M} \sum_i \log \frac{q(z_i | x_i)}{\frac{1}{M} \sum_j q(z_i | x_j)}
      \le \log M, \qquad
      \hat I^+ = \frac{1}{M} \sum_i \log
      \frac{q(z_i | x_i)}{\frac{1}{M - 1} \sum_{j \ne i} q(z_i | x_j)}$$

    with $E \hat I \le I \le E \hat I^+$ for the population that the data were drawn from. Both
    biases fall as 1/M while I is well below log M; beyond it $\hat I$ sits at the cap whatever I
    is, and $\hat I^+$ far above. There the mean rate $E\, \mathrm{KL}(q(z|x) \| p(z)) \ge I$ is
    the upper bound; elsewhere it is returned besides, for the smaller of two noisy upper bounds
    is none: it lies below I in expectation where both are close to it.

    The error is that of a mean over data: what a datum adds as a component, the mean over codes
    of its share of q(z), is 1 for all but the error of q(z) itself.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        num_data: M, drawn at random without replacement; all rows by default. M^2 densities are
            computed.
        block: rows and columns of the density matrix held at once.
        plate: the data plate's name, where the pair leaves a choice.

    Raises:
        ValueError: for fewer data than M, a guide without density, or a prior that differs
            between data.

    References:
        Zhao, Song and Ermon (2017), InfoVAE, arXiv:1706.02262.
        Poole, Ozair, van den Oord, Alemi and Tucker (2019), On variational bounds of mutual
        information, arXiv:1905.06922.
    """
    check_positive(block=block)
    pair = Pair(model, guide, x, plate, block)
    m = len(pair) if num_data is None else num_data
    if not 2 <= m <= len(pair):
        raise ValueError(f"num_data is {m}: 2 to {len(pair)} of the data given are needed")
    with evaluating(model, guide):
        if m < len(pair):
            pair.choose(torch.randperm(len(pair))[:m])
        fixed_prior(pair)
        rates = pair.table(lambda terms: [terms.kl])[0][:, 0]
        mixture = Mixture(pair, block)
        own, with_own, without = _row_sums(mixture)
    lower = mean_of(own - with_own + math.log(m))
    upper = mean_of(own - without + math.log(m - 1))
    extra = f", {pair.note}" if pair.note else ""
    rate = replace(mean_of(rates), bound="upper", note="rate" + extra)
    capped = lower.value >= CAPPED * math.log(m)
    note = f"InfoVAE estimator on {m} data" + (f", capped at log M = {math.log(m):.4g}" * capped)
    apart = replace(upper, bound="upper", note=f"leave one out of {m} data" + extra)
    return MutualInformation(
        replace(lower, bound="lower", note=note + extra, flag="capped" * capped),
        rate if capped else apart,
        rate,
        math.log(m),
        capped,
    )


def surgery(
    model: Program,
    guide: Program,
    x: Data,
    block: int | None = 256,
    plate: str | None = None,
) -> Surgery:
    r"""Splits the rate into information, total correlation and dimension-wise KL.

    $$\frac{1}{N} \sum_n \mathrm{KL}(q(z|x_n) \| p(z)) = I_q(x; z)
      + \mathrm{KL}\Big(q(z) \,\Big\|\, \prod_j q(z_j)\Big)
      + \sum_j \mathrm{KL}(q(z_j) \| p(z_j)), \qquad q(z) = \frac{1}{N} \sum_n q(z|x_n)$$

    for the empirical distribution of the N data given, with log q(z) and log q(z_j) over all of
    them. Each term is the mean of its log-ratio at one draw per datum: unbiased for these data,
    and the identity holds draw by draw. As estimates for the population, I is too low (it cannot
    exceed log N) and the KL of the marginal too high. Cost N^2 d densities.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        block: rows and columns of the density matrix held at once: a few times 8 d block^2 bytes.
        plate: the data plate's name, where the pair leaves a choice.

    Raises:
        ValueError: for a guide without density, or a prior that differs between data.

    References:
        Hoffman and Johnson (2016), ELBO surgery, NIPS workshop on advances in approximate
        Bayesian inference.
        Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
        autoencoders, arXiv:1802.04942.
    """
    check_positive(block=block)
    pair = Pair(model, guide, x, plate, block)
    with evaluating(model, guide):
        apart = fixed_prior(pair) is not None and pair.codes == pair.latents
        mixture = Mixture(pair, block)
        log_q = torch.cat([t.log_q for t in mixture.terms]).double()
        log_p, factors = [], []
        for terms in mixture.terms:
            log_p.append(terms.log_prior.double())
            factors.append(_prior_factors(pair, terms.prior, terms.codes) if apart else None)
        own, joint, single = _all_sums(mixture)
    n = math.log(len(pair))
    prior = torch.cat(log_p)
    joint = joint - n
    by_dim = None
    if single is not None and all(f is not None for f in factors):
        by_dim = single - n - torch.cat([f for f in factors if f is not None]).double()
    note = f"for the empirical distribution of {len(pair)} data"
    note += f", {pair.note}" if pair.note else ""

    def fixed(values: Tensor) -> Estimate:
        return replace(mean_of(values), data_error=None, note=note)

    return Surgery(
        rate=fixed(log_q - prior),
        mutual_information=fixed(own - joint),
        marginal_kl=fixed(joint - prior),
        total_correlation=None if single is None else fixed(joint - (single - n).sum(1)),
        dimension_wise=None if by_dim is None else fixed(by_dim.sum(1)),
        per_dimension=None if by_dim is None else by_dim.mean(0),
    )


def _row_sums(mixture: Mixture) -> tuple[Tensor, Tensor, Tensor]:
    """log q(z_i | x_i), and the log-sums over all data and over all but the own."""
    own, full, others = [], [], []
    blocks = range(len(mixture.slices))
    for i in blocks:
        total: Tensor | None = None
        rest: Tensor | None = None
        for j in blocks:
            values = mixture.log_density(i, j)
            total = _add(total, values.logsumexp(1))
            if i == j:
                own.append(values.diagonal().clone())
                values.fill_diagonal_(-math.inf)
            rest = _add(rest, values.logsumexp(1))
        assert total is not None
        assert rest is not None
        full.append(total)
        others.append(rest)
    return torch.cat(own), torch.cat(full), torch.cat(others)


def _add(total: Tensor | None, new: Tensor) -> Tensor:
    return new if total is None else torch.logaddexp(total, new)


def _all_sums(mixture: Mixture) -> tuple[Tensor, Tensor, Tensor | None]:
    """log q(z_i | x_i), and the log-sums over all data jointly and by dimension.

    What is its own comes from the same numbers as the sum it is part of, so that no rounding lifts
    it above the sum.
    """
    own, joint, single = [], [], []
    blocks = range(len(mixture.slices))
    for i in blocks:
        total: Tensor | None = None
        by_dim: Tensor | None = None
        for j in blocks:
            densities = mixture.log_density(i, j)
            if i == j:
                own.append(densities.diagonal())
            total = _add(total, densities.logsumexp(1))
            values = mixture.marginal_log_density(i, j)
            if values is not None:
                by_dim = _add(by_dim, values.logsumexp(1).double())
        assert total is not None
        joint.append(total)
        if by_dim is not None:
            single.append(by_dim)
    by_dims = torch.cat(single) if single else None
    return torch.cat(own).double(), torch.cat(joint).double(), by_dims


def _prior_factors(pair: Pair, prior: Mapping[str, Site], codes: Tensor) -> Tensor | None:
    found = []
    for name, columns in pair.slices.items():
        fn = univariate(pair, prior[name], marginal=False)
        if fn is None:
            return None
        found.append(density(fn, codes[:, columns]))
    return torch.cat(found, -1)


def _information(subject: Subject) -> MutualInformation:
    return mutual_information(*subject.pair, subject.few)


def _surgery(subject: Subject) -> Surgery:
    return surgery(*subject.pair, subject.few)


def _part(name: str, title: str, reading: str) -> Metric:
    def compute(subject: Subject) -> Estimate:
        found = getattr(subject.once(_surgery), name)
        if found is None:
            raise Inapplicable(f"the prior has no {name.replace('_', ' ')} in closed form")
        return found  # type: ignore[no-any-return]

    return Metric(f"surgery/{name}", title, "nats", reading, "information", compute)


METRICS = (
    Metric(
        "information_lower",
        "Mutual information from below",
        "nats",
        "I(x; z), at most log M",
        "information",
        lambda s: s.once(_information).lower,
    ),
    Metric(
        "information_upper",
        "Mutual information from above",
        "nats",
        "I(x; z)",
        "information",
        lambda s: s.once(_information).upper,
    ),
    _part("mutual_information", "Rate's share: index-code information", "of the rows themselves"),
    _part("total_correlation", "Rate's share: total correlation", "0 for independent dimensions"),
    _part("dimension_wise", "Rate's share: dimension-wise KL", "0 where marginals match"),
    _part("marginal_kl", "KL(q(z) ‖ p(z))", "total correlation and dimension-wise KL"),
)
