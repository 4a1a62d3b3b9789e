"""The InfoVAE family: the per-sample KL weighed against an aggregate-posterior divergence."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from ppl_vae.objectives.composed import Composed, is_zero
from ppl_vae.objectives.divergences.divergence import Divergence
from ppl_vae.objectives.divergences.joint import aggregate_posteriors
from ppl_vae.objectives.divergences.pooled import pooled_posteriors
from ppl_vae.objectives.joints import Joint, Scale, Sites, check_joint, joints_of
from ppl_vae.objectives.objective import Terms, Weight
from ppl_vae.objectives.starts import start
from ppl_vae.objectives.through import check_elbo
from ppl_vae.objectives.trainable import check_scored
from ppl_vae.program.reading import Reading
from ppl_vae.world import here

__all__ = ["InfoVAE"]


class InfoVAE(Composed):
    r"""The InfoVAE objective for any Pyro pair.

    $$-\sum_{\text{obs}} \log p(x \mid z) - \sum_{\text{global}} (\log p - \log q)
      + (1 - \alpha) \sum_{\text{local}} \mathrm{KL}(q(z \mid x) \Vert p(z))
      + (\alpha + \lambda - 1)\, W\, D(q_w(z) \Vert p(z))$$

    with row weights $w_i$, the guide site's scale times its mask, and $W = \sum_i w_i$ (N in a
    plain or subsampled plate), so that lambda is in nats per datum whatever the batch size,
    subsampling or number of particles.

    `alpha=0, scale=1` is the ELBO, equal to `pyro.infer.TraceMeanField_ELBO` where its mean-field
    condition holds and to `pyro.infer.Trace_ELBO` where it does not; `alpha=1` leaves the
    divergence alone (MMD-VAE). A coefficient that is the number 0 takes its term out: at alpha=1
    no latent density is evaluated, and a uniform prior may meet a normal or point encoder.

    A discrete guide site marked `infer={"enumerate": "parallel"}` is summed over: every term is
    its exact expectation, and each value makes a row of the aggregate posterior, weighted by its
    probability, of whose pairs those within one datum are left out. One of the model, so marked
    (`pyro.infer.config_enumerate`) and absent from the guide, is summed out of the densities.

    Args:
        divergence: D, such as `MMD()`; none is needed where its coefficient is 0.
        alpha: the weight on mutual information, at most 1 for a KL that is not rewarded.
        scale: lambda, in nats per datum and unit of D; "auto" for a start from the sizes of x
            and z: the number of numbers observed of a datum for `MMD()`, and for others what asks
            the same price for moving the codes (`ppl_vae.objectives.starts`). It is read off the
            first call, kept, and stands in `scales` and `terms`.
        sites: the latent sites of the joint that D compares; all local ones by default, and those
            left out keep their full KL. A mapping gives each site (or tuple of sites) a
            divergence and a scale of its own.
        plate: the plate whose entries are rows, or several to pool; by default the one that holds
            a latent and an observation, of several the one named `data`.
        pool: whether the sites of a joint are rows and not columns, as the steps of sequences
            are: each in the noise of its prior given its parents, with its own mask
            (`ppl_vae.objectives.divergences.pooled`). W is the number of steps that are not
            masked then, and lambda in nats per step.
        given: for a prior p(z | c) that is not a location-scale family, a function of the model's
            arguments that returns the covariates c `(n, k)`.
        elbo: a loss of Pyro's to go through, which gets the model with one factor more that holds
            $-(\alpha + \lambda - 1)\, W D + \alpha\, \mathrm{KL}$: `TraceGraph_ELBO()` for a
            guide that is not reparameterised upstream of the codes, with its baselines;
            `TraceEnum_ELBO()`, `TraceMeanField_ELBO()` and the like for their very estimators. All
            densities are evaluated then, at alpha=1 too, and particles are the loss's own.
        free_bits: nats per datum of each local site's KL that are free,
            $\sum_s W \max\big(\tfrac1W \mathrm{KL}_s, \text{free bits}\big)$: the mean over the
            batch is floored, so below it nothing pulls a site towards its prior. `terms` keep the
            KL itself.
        **particles: `num_particles`, `vectorize_particles`, `max_plate_nesting`, as in
            `Objective`.

    Raises:
        ValueError: if alpha + scale < 1, or a divergence is wanted and not given; when called,
            for a pair that it has no meaning for, in one line that names the site.
        NoDataPlate: when called, if no plate or more than one could be the data's.
        FloatingPointError: from `loss_and_grads`, for a term that is NaN or infinite.

    Warns:
        UserWarning: once a site, for a discrete prior with parameters that get no gradient.

    References:
        Zhao, Song and Ermon (2017), InfoVAE, arXiv:1706.02262.
        Kingma et al. (2016), Improved variational inference with inverse autoregressive flow,
        arXiv:1606.04934 (free bits, of the mean over a minibatch).

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from ppl_vae.objectives import MMD, InfoVAE
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
        >>> def guide(x):
        ...     scale = pyro.param("scale", torch.tensor(0.5))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, scale).to_event(1))
        >>> svi = pyro.infer.SVI(
        ...     model, guide, pyro.optim.Adam({"lr": 0.01}), loss=InfoVAE(MMD(), scale=10.0)
        ... )
        >>> loss = svi.step(torch.randn(32, 2))
    """

    enumerates = True

    def __init__(
        self,
        divergence: Divergence | None = None,
        alpha: Weight = 1.0,
        scale: Scale = 1.0,
        *,
        sites: Sites | None = None,
        plate: str | Sequence[str] | None = None,
        pool: bool = False,
        given: Callable[..., Tensor] | None = None,
        free_bits: float = 0.0,
        elbo: ELBO | None = None,
        **particles: Any,
    ):
        check_elbo(elbo, particles)
        if elbo is not None:
            particles = {"num_particles": elbo.num_particles}
        super().__init__(**particles)
        self.elbo = elbo
        if not 0 <= free_bits < math.inf:
            raise ValueError(f"free_bits={free_bits} must be finite and not negative")
        if free_bits and is_zero(1 - alpha if not callable(alpha) else 1):
            raise ValueError(
                f"free_bits={free_bits:g} frees a part of a KL that alpha=1 leaves out: lower "
                "alpha, or leave free_bits out"
            )
        if free_bits and elbo is not None:
            raise ValueError(
                f"free_bits={free_bits:g} frees a part of a KL that elbo= weighs by itself: leave "
                "one of them out"
            )
        if pool and given is not None:
            raise ValueError("pool=True compares noise, which needs no covariates: no given=")
        self.free_bits = free_bits
        self.pool = pool
        self.alpha = alpha
        self.scale = scale
        self.plate = plate
        self.given = given
        self.scales: dict[str, float] = {}
        """By joint of sites, the lambda that "auto" has become."""
        self.joints = joints_of(divergence, scale, sites)
        for joint in self.joints:
            check_joint(self, joint, alpha, pool)
        self.divergences = nn.ModuleList([d for _, d, _ in self.joints if d is not None])

    def build(self, size: Sequence[int], dims: Mapping[str, int]) -> None:
        for names, divergence, _ in self.joints:
            known = [n for n in (dims if names is None else names) if n in dims]
            if divergence is not None and known:
                sizes = [dims[n] for n in known]
                divergence.build(sizes[0] if self.pool else sum(sizes))

    def state(self) -> dict[str, Any]:
        # a configuration that is written down has numbers in place of "auto"
        return {"scales": self.scales}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.scales = dict(state["scales"])

    def compared(self, reading: Reading) -> list[str]:
        if self.elbo is not None or not is_zero(1 - self.at_step(self.alpha)):
            return reading.latent
        selected = self._selected(reading)
        return [name for name in reading.latent if name not in selected]

    def matched(self, reading: Reading) -> dict[str, Divergence]:
        self._settle(reading)
        return {
            name: divergence
            for names, divergence, scale in self.joints
            if divergence is not None and not is_zero(self._coefficient(scale))
            for name in (reading.local(self.plate) if names is None else names)
        }

    def _settle(self, reading: Reading) -> None:
        """Puts a number in the place of each "auto", by the sizes that the first call has."""
        for i, (names, divergence, scale) in enumerate(self.joints):
            if isinstance(scale, str) and divergence is not None:
                joint, rows = reading.rows(self.plate, names)
                value = start(divergence, reading, joint, rows)
                settled = Joint(names, divergence, value)
                check_joint(self, settled, self.alpha, self.pool)
                self.scales["+".join(joint)] = value
                self.joints[i] = settled

    def _coefficient(self, scale: Scale) -> Tensor | float:
        assert not isinstance(scale, str)
        return self.at_step(self.alpha) + self.at_step(scale) - 1

    def _weighed(self, reading: Reading) -> set[str]:
        self._settle(reading)
        is_elbo = is_zero(self.at_step(self.alpha)) and not self.free_bits
        named = self.plate is not None or any(names for names, *_ in self.joints)
        if is_elbo and not named:
            return set()  # no plate is asked for
        selected = self._selected(reading)  # refuses what no site and no plate is named
        return set() if is_elbo else selected

    def _selected(self, reading: Reading) -> set[str]:
        """The sites whose KL is weighed: those that some divergence compares, or could."""
        selected: set[str] = set()
        for names, *_ in self.joints:
            if names is None:
                selected.update(reading.local(self.plate))
            elif self.plate is None:
                reading.check_names(names)
                selected.update(names)
            else:
                reading.plates(self.plate, names)
                selected.update(names)
        return selected

    def _penalties(self, reading: Reading, terms: Terms, critics: list[Tensor]) -> Tensor | float:
        loss: Tensor | float = 0.0
        for names, divergence, scale in self.joints:
            coefficient = self._coefficient(scale)
            if is_zero(coefficient) or divergence is None:
                continue
            joint = list(reading.local(self.plate) if names is None else names)
            if self.pool:
                posteriors = pooled_posteriors(reading, joint, self.plate, self.is_moving)
            else:
                posteriors = aggregate_posteriors(
                    reading, names, self.plate, self.given, moving=self.is_moving
                )
            if divergence.reads == "score":
                check_scored(reading, joint, type(divergence).__name__)
            for q in posteriors:
                value = divergence(q)
                loss = loss + here().portion(coefficient * q.weights.sum() * value)
                critic = divergence.critic_loss(q)
                if critic is not None:
                    critics.append(here().portion(critic))
                terms.add_mean(f"divergence/{q.name}", value)
                if q.name in self.scales:
                    terms.add_mean(f"scale/{q.name}", torch.full_like(value, self.scales[q.name]))
        return loss
