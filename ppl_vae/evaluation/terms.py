"""Rate, distortion and ELBO of a model/guide pair."""

import math

import torch
from torch import Tensor

from ppl_vae.evaluation.estimate import Estimate, mean_over_rows
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating

__all__ = ["distortion", "elbo", "elbo_terms", "rate"]


def elbo_terms(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 4,
    block: int = 1024,
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

    Args:
        model: the generative program, called as `model(x)`.
        guide: the encoder program, with the same signature.
        x: rows of data, or the tuple of the programs' positional arguments.
        num_samples: draws of z per datum. With one, the Monte Carlo error cannot be told from the
            spread between data, which is reported in its place.
        block: rows times draws held at once.
        plate: the data plate's name, where the pair leaves a choice.

    Returns:
        The estimates under `"rate"`, `"distortion"` and `"elbo"`. A deterministic (Delta) guide of
        a continuous latent has infinite rate, an implicit guide one that is not known (NaN).

    Raises:
        ValueError: for a pair that `Pair` refuses, or a model that observes nothing.

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
    block: int = 1024,
    plate: str | None = None,
) -> Estimate:
    r"""Mean $\mathrm{KL}(q(z|x) \| p(z))$ in nats per datum; see `elbo_terms`."""
    return _terms(model, guide, x, num_samples, block, plate, likelihood=False)["rate"]


def distortion(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 4,
    block: int = 1024,
    plate: str | None = None,
) -> Estimate:
    r"""Mean $-E_{q(z|x)} \log p(x|z)$ in nats per datum; see `elbo_terms`."""
    return elbo_terms(model, guide, x, num_samples, block, plate)["distortion"]


def elbo(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 4,
    block: int = 1024,
    plate: str | None = None,
) -> Estimate:
    r"""Mean ELBO in nats per datum, a lower bound of $\log p(x)$; see `elbo_terms`."""
    return elbo_terms(model, guide, x, num_samples, block, plate)["elbo"]


def _terms(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int,
    block: int,
    plate: str | None,
    likelihood: bool,
) -> dict[str, Estimate]:
    check_positive(num_samples=num_samples, block=block)
    pair = Pair(model, guide, x, plate)
    rates: list[Tensor] = []
    costs: list[Tensor] = []
    with evaluating(model, guide):
        for _, rows in pair.blocks(block, num_samples):
            terms = pair.run(rows, prior_only=not likelihood)
            if not pair.implicit:
                rates.append(terms.kl.view(-1, num_samples))
            if likelihood:
                costs.append(-terms.log_likelihood.view(-1, num_samples))
    found: dict[str, Estimate] = {}
    if pair.implicit:
        note = "unknown: the guide has no density"
        found["rate"] = found["elbo"] = Estimate(math.nan, note=note)
    elif pair.deterministic:
        note = "infinite: the guide is deterministic"
        found["rate"] = Estimate(math.inf, note=note)
        found["elbo"] = Estimate(-math.inf, bound="lower", note=note)
    else:
        found["rate"] = mean_over_rows(torch.cat(rates), note=pair.note)
    if likelihood:
        cost = torch.cat(costs)
        found["distortion"] = mean_over_rows(cost, note=pair.note)
        if "elbo" not in found:
            total = cost + torch.cat(rates)
            found["elbo"] = mean_over_rows(total, bound="lower", note=pair.note, sign=-1)
    return found
