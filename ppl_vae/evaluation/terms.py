"""Rate, distortion and ELBO of a model/guide pair."""

import math

from torch import Tensor

from ppl_vae.evaluation.estimate import Estimate, mean_over_rows
from ppl_vae.evaluation.metric import NATS, Metric, Subject
from ppl_vae.evaluation.pair import Pair, Terms
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.evaluation.totals import Total, pair_or_total, total_terms

__all__ = ["METRICS", "distortion", "elbo", "elbo_terms", "rate", "require_density"]

_INFINITE = {
    "rate": Estimate(math.inf, note="infinite: the guide is deterministic"),
    "elbo": Estimate(-math.inf, bound="lower", note="infinite: the guide is deterministic"),
}
"""Of a point mass on a continuous latent."""


def elbo_terms(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 4,
    block: int | None = 1024,
    plate: str | None = None,
) -> dict[str, Estimate]:
    r"""Rate, distortion and ELBO in one pass, each a mean over data in nats per datum.

    $$R = \mathrm{KL}(q(z|x) \,\|\, p(z)), \qquad D = -E_{q(z|x)} \log p(x|z), \qquad
      \mathrm{ELBO} = -(R + D) \le \log p(x)$$

    The rate is in closed form where Pyro knows it and the order of the latents allows it (no
    Monte Carlo error), otherwise the mean of $\log q(z|x) - \log p(z)$ over the draws. All are
    unbiased. Scales (a subsampled plate's, an annealed weight's) are left out, masks are kept.
    Modules run in eval mode and without gradients. Latents outside the data plate are drawn from
    the guide once and held; their own KL is not included.

    Where log q is one number for all rows (`AutoMultivariateNormal`), or no observation stands in
    the plate (named by `plate=`), the terms are totals over all sites, divided by the number of
    rows, and so is their error, over draws. Where no latent belongs to a row (all are global, or
    the batch is part of the event) they are totals over all data given, not divided by anything.

    Args:
        model: the generative program, called as `model(x)`.
        guide: the encoder program, with the same signature.
        x: rows of data, or the tuple of the programs' positional arguments.
        num_samples: draws of z per datum. With one, the Monte Carlo error is one with the
            spread between data, which is reported in its place.
        block: rows times draws held at once; None runs the programs on all data at once.
        plate: the data plate's name, where the pair leaves a choice.

    Returns:
        The estimates under `"rate"`, `"distortion"` and `"elbo"`. A deterministic (Delta) guide of
        a continuous latent has infinite rate, an implicit guide one that is not known (NaN).

    Raises:
        NoDataPlate: if no plate or more than one could be the data's, of a pair with latents in
            plates.
        ValueError: for a pair that `Pair` refuses.

    References:
        Alemi, Poole, Fischer, Dillon, Saurous and Murphy (2018), Fixing a broken ELBO,
        arXiv:1711.00464.
    """
    return _terms(model, guide, x, num_samples, block, plate, likelihood=True)


def rate(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 4,
    block: int | None = 1024,
    plate: str | None = None,
) -> Estimate:
    r"""Mean $\mathrm{KL}(q(z|x) \| p(z))$ in nats per datum, one of `elbo_terms`.

    Args:
        model, guide, x, num_samples, block, plate: as in `elbo_terms`.
    """
    return _terms(model, guide, x, num_samples, block, plate, likelihood=False)["rate"]


def distortion(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 4,
    block: int | None = 1024,
    plate: str | None = None,
) -> Estimate:
    r"""Mean $-E_{q(z|x)} \log p(x|z)$ in nats per datum, one of `elbo_terms`.

    Args:
        model, guide, x, num_samples, block, plate: as in `elbo_terms`.
    """
    return elbo_terms(model, guide, x, num_samples, block, plate)["distortion"]


def elbo(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 4,
    block: int | None = 1024,
    plate: str | None = None,
) -> Estimate:
    r"""Mean ELBO in nats per datum, a lower bound of $\log p(x)$, one of `elbo_terms`.

    Args:
        model, guide, x, num_samples, block, plate: as in `elbo_terms`.
    """
    return elbo_terms(model, guide, x, num_samples, block, plate)["elbo"]


def _terms(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int,
    block: int | None,
    plate: str | None,
    likelihood: bool,
) -> dict[str, Estimate]:
    check_positive(num_samples=num_samples, block=block)
    pair = pair_or_total(model, guide, x, plate, block)
    with evaluating(model, guide):
        if isinstance(pair, Total):
            return _global_terms(pair, num_samples, likelihood)
        by_row = pair.observed or not likelihood or pair.deterministic or pair.implicit
        if pair.joint_guide or not by_row:
            return _shares(pair, num_samples)
        # The likelihood first: its run of the model gives the prior too.
        table = pair.table(lambda run: _costs_and_rates(run, likelihood), num_samples)
    found: dict[str, Estimate] = {}
    if pair.implicit:
        note = "unknown: the guide has no density"
        found["rate"] = found["elbo"] = Estimate(math.nan, note=note)
    elif pair.deterministic:
        found |= _INFINITE
    else:
        found["rate"] = mean_over_rows(table[-1], note=pair.note)
    if likelihood:
        cost = table[0]
        found["distortion"] = mean_over_rows(cost, note=pair.note)
        if "elbo" not in found:
            total = cost + table[-1]
            found["elbo"] = mean_over_rows(total, bound="lower", note=pair.note, sign=-1)
    return found


def _costs_and_rates(terms: Terms, likelihood: bool) -> list[Tensor]:
    costs = [-terms.log_likelihood] if likelihood else []
    return costs if terms.pair.implicit else [*costs, terms.kl]


def _shares(pair: Pair, num_samples: int) -> dict[str, Estimate]:
    """Of all sites that are not held, for a guide or a likelihood that does not split by row."""
    note = f"the total by datum of plate {pair.plate!r}: "
    note += "log q is one number" if pair.joint_guide else "it holds no observation"
    return total_terms(pair.blocks, num_samples, pair.held).estimates(len(pair), note)


def _global_terms(pair: Total, num_samples: int, likelihood: bool) -> dict[str, Estimate]:
    if likelihood:
        pair.require_observed()
    terms = total_terms(pair, num_samples).estimates(1, pair.note)
    return terms | _INFINITE if pair.deterministic else terms


def _of(subject: Subject) -> dict[str, Estimate]:
    return elbo_terms(*subject.pair, subject.args)


def require_density(subject: Subject) -> None:
    """Refuses a likelihood that gives data no density, as one of a cost alone."""
    if not math.isfinite(subject.once(_of)["distortion"].value):
        raise ValueError("the likelihood gives the data no density")


METRICS = (
    Metric(
        "elbo", "ELBO", NATS, "minus rate minus distortion", "fit", lambda s: s.once(_of)["elbo"]
    ),
    Metric(
        "distortion",
        "Distortion",
        NATS,
        "−E log p(x|z)",
        "fit",
        lambda s: s.once(_of)["distortion"],
        when="fit",
    ),
    Metric(
        "rate",
        "Rate",
        NATS,
        "KL(q(z|x) ‖ p(z)); 0 where the code says nothing",
        "fit",
        lambda s: s.once(_of)["rate"],
        when="fit",
    ),
)
