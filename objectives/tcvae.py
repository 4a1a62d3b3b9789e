"""The total-correlation VAE: the KL's three parts, each with a weight of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import Independent
from torch import Tensor

from ppl_vae.arguments import of_step
from ppl_vae.objectives.betavae import BetaVAE
from ppl_vae.objectives.divergences.aggregate_kl import (
    Estimator,
    LogDensities,
    check,
    log_densities,
)
from ppl_vae.objectives.divergences.aggregate_posterior import (
    AggregatePosterior,
    DistributionPrior,
    Prior,
)
from ppl_vae.objectives.divergences.divergence import Counted
from ppl_vae.objectives.divergences.joint import aggregate_posteriors
from ppl_vae.objectives.divergences.weighting import normalised
from ppl_vae.objectives.objective import Terms, Weight
from ppl_vae.program.reading import Reading
from ppl_vae.world import here

__all__ = ["TCVAE"]


class TCVAE(Counted, BetaVAE):
    r"""The beta-TCVAE: weights on mutual information, total correlation and dimension-wise KL.

    $$-\mathrm{E} \log p(x \mid z) + \alpha\, I_q(x; z)
      + \beta\, \mathrm{KL}\big(q(z) \,\Vert\, \textstyle\prod_k q(z_k)\big)
      + \gamma \sum_k \mathrm{KL}(q(z_k) \Vert p(z_k))$$

    whose three parts add up to $\mathrm{E}\, \mathrm{KL}(q(z \mid x) \Vert p(z))$ for a prior that
    factorises. With log q(z) and log q(z_k) estimated on the minibatch (see
    `ppl_vae.objectives.divergences.aggregate_kl`), and q the sampled codes' batch mean,

    $$\hat I = \langle \log q(z_i \mid x_i) - \log \hat q(z_i) \rangle, \qquad
      \hat T = \langle \log \hat q(z_i) - \textstyle\sum_k \log \hat q(z_{ik}) \rangle,$$

    and the dimension-wise KL is the rest of the KL, in closed form where there is one: the loss is

    $$-\mathrm{E} \log p(x \mid z) + \gamma\, \mathrm{KL} + (\alpha - \gamma)\, \hat I
      + (\beta - \gamma)\, \hat T.$$

    So the parts add up to the rate exactly, and equal weights give `BetaVAE`, value and
    gradients, with no noise from the estimates.

    `terms` holds `mutual_information`, `total_correlation` and `dimension_wise` of the joint
    besides `rate` of each site. The information is never above log N: by MSS as it is; by MWS,
    whose log q(z) is too low by up to log n, what exceeds log N goes to the total correlation, in
    value, without an effect on gradients.

    Codes are in the prior's noise coordinates, so sites with a Normal, Laplace or Uniform prior
    fit. The guide must be Gaussian given the data at every selected site; a joint of several sites
    is one code, and none of them may be drawn given another (pick one with `sites=[...]`; those
    left out keep their full KL). A site drawn given a further latent u counts (x, u) as its datum.
    Costs $n^2 d$ in time, and memory linear in n.

    Args:
        mutual_information: alpha, a number or a function of the step; negative rewards it.
        total_correlation: beta; the paper's runs on images take 4 to 10.
        dimension_wise: gamma.
        estimator: "MSS" or "MWS".
        size: the number of data N; by default what `fit` or the plate says, see `AggregateKL`.
        **elbo: `num_particles` and the like as in `Objective`; `sites` and `plate` as in
            `InfoVAE`.

    Raises:
        ValueError: for a negative total_correlation or dimension_wise; for a guide that is not
            Gaussian given the data or a prior that does not factorise, when called.

    References:
        Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
        autoencoders, arXiv:1802.04942.

    Example:
        >>> from ppl_vae.objectives.tcvae import TCVAE
        >>> objective = TCVAE(total_correlation=6.0, size=60_000)
    """

    # Rows of one datum would split the KL into other parts than these.
    enumerates = False

    def __init__(
        self,
        mutual_information: Weight = 1.0,
        total_correlation: Weight = 6.0,
        dimension_wise: Weight = 1.0,
        estimator: Estimator = "MSS",
        size: int | None = None,
        **elbo: Any,
    ):
        check(estimator, size, "TCVAE")
        of_step(
            self,
            mutual_information=mutual_information,
            total_correlation=total_correlation,
            dimension_wise=dimension_wise,
        )
        for name, weight in (
            ("total_correlation", total_correlation),
            ("dimension_wise", dimension_wise),
        ):
            if not callable(weight) and weight < 0:
                raise ValueError(f"TCVAE {name}={weight} must not be negative")
        sites: Sequence[str] | None = elbo.get("sites")
        if isinstance(sites, Mapping):
            raise ValueError("TCVAE takes the sites of one joint: sites=['z1', 'z2']")
        if elbo.get("free_bits"):
            raise ValueError(
                "TCVAE weighs parts of the KL, which free_bits would no longer add up to: use "
                "BetaVAE(free_bits=...)"
            )
        if elbo.get("pool"):
            raise ValueError(
                "TCVAE takes a joint apart, which pool=True has none of: use InfoVAE(pool=True)"
            )
        if elbo.get("elbo") is not None:
            raise ValueError(
                "TCVAE weighs parts of the KL, which no other loss has: leave elbo out"
            )
        super().__init__(dimension_wise, **elbo)
        self.mutual_information = mutual_information
        self.total_correlation = total_correlation
        self.dimension_wise = dimension_wise
        self.estimator: Estimator = estimator
        self.size = size

    def _penalties(self, reading: Reading, terms: Terms, critics: list[Tensor]) -> Tensor | float:
        ((sites, *_),) = self.joints
        posteriors = aggregate_posteriors(
            reading, sites, self.plate, self.given, moving=self.is_moving
        )
        base = self.at_step(self.dimension_wise)
        excess = [
            self.at_step(weight) - base
            for weight in (self.mutual_information, self.total_correlation)
        ]
        is_weighed = any(isinstance(e, Tensor) or e != 0 for e in excess)
        is_rest = isinstance(base, Tensor) or base != 0
        rate = self._rate(reading, posteriors) if is_rest else None
        loss: Tensor | float = 0.0
        for q in posteriors:
            if is_rest:
                _check_factorises(q.prior, q.name)
            with torch.set_grad_enabled(torch.is_grad_enabled() and is_weighed):
                found = log_densities(q, self.estimator, self.size, "TCVAE", self.rows)
                information, correlation = _parts(q, found)
            weighed = excess[0] * information + excess[1] * correlation
            loss = loss + here().portion(q.weights.sum() * weighed)
            terms.add_mean(f"mutual_information/{q.name}", information)
            terms.add_mean(f"total_correlation/{q.name}", correlation)
            if rate is not None:
                terms.add_mean(f"dimension_wise/{q.name}", rate - information - correlation)
        return loss

    @torch.no_grad()
    def _rate(self, reading: Reading, posteriors: Sequence[AggregatePosterior]) -> Tensor:
        """The joint's KL in nats per datum, the mean over vectorised particles."""
        ((sites, *_),) = self.joints
        names, _ = reading.rows(self.plate, sites)
        weight = torch.stack([q.weights.sum() for q in posteriors]).sum()
        (kl,) = here().totals(torch.stack([reading.kl(name) for name in names]).sum())
        return kl / torch.where(weight > 0, weight, 1)


def _parts(q: AggregatePosterior, found: LogDensities) -> tuple[Tensor, Tensor]:
    """Mutual information and total correlation, in nats."""
    share = normalised(q.weights)
    information = (share * (found.own - found.aggregate)).sum()
    correlation = (share * (found.aggregate - found.by_dimension.sum(-1))).sum()
    # More than log N shows by how much the mean of log q(z), at least, is too low.
    excess = (information - found.log_size).clamp_min(0).detach()
    return information - excess, correlation + excess


def _check_factorises(prior: Prior, name: str) -> None:
    fn = prior.fn if isinstance(prior, DistributionPrior) else None
    if not (isinstance(fn, Independent) and not fn.base_dist.event_shape):
        raise ValueError(
            f"the dimension-wise KL of sites {name!r} needs a prior that factorises over the "
            "code's dimensions: Normal, Laplace or Uniform, one family for the joint; use "
            "InfoVAE(AggregateKL()) for another, or InfoVAE(MMD()) where the guide is no Gaussian"
        )
