"""The InfoVAE family: the per-sample KL weighed against an aggregate-posterior divergence."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.infer import ELBO, TraceMeanField_ELBO
from pyro.infer.util import zero_grads
from pyro.ops.provenance import detach_provenance
from torch import Tensor, nn

from ppl_vae.arguments import instance, of_step
from ppl_vae.objectives.composed import check_credited, check_elbo, through
from ppl_vae.objectives.decomposition import decompose
from ppl_vae.objectives.divergences.divergence import Divergence
from ppl_vae.objectives.divergences.joint import aggregate_posteriors
from ppl_vae.objectives.divergences.pooled import pooled_posteriors
from ppl_vae.objectives.objective import Objective, Terms, Weight
from ppl_vae.objectives.starts import start
from ppl_vae.objectives.trainable import check_scored, untrained, warn_untrained
from ppl_vae.program.agreement import check_match
from ppl_vae.program.reading import Reading
from ppl_vae.world import here

__all__ = ["Autoencoder", "BetaVAE", "InfoVAE"]

Scale = Weight | Literal["auto"]
_Joint = tuple[tuple[str, ...] | None, Divergence | None, Scale]
Sites = Sequence[str] | Mapping[str | tuple[str, ...], tuple[Divergence, Scale]]


class InfoVAE(Objective):
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
        if free_bits and _is_zero(1 - alpha if not callable(alpha) else 1):
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
        if isinstance(sites, str):
            raise ValueError(f"sites={sites!r}: give a list, [{sites!r}]")
        if isinstance(sites, Mapping):
            if divergence is not None:
                raise ValueError(
                    "give a divergence, or sites as a mapping to divergences and no divergence "
                    "(null) next to it: not both"
                )
            self.joints: list[_Joint] = [
                ((key,) if isinstance(key, str) else tuple(key), d, weight)
                for key, (d, weight) in sites.items()
            ]
        else:
            self.joints = [(None if sites is None else tuple(sites), divergence, scale)]
        for joint, d, weight in self.joints:
            self._check(joint, d, weight)
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

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        if self.elbo is not None:
            return self._composed(self.elbo, "differentiable_loss", model, guide, args, kwargs)
        terms = Terms()
        loss: Tensor | float = 0.0
        for reading in self._get_traces(model, guide, args, kwargs):
            loss = loss + self._particle(reading, terms)
        return self._finish(torch.as_tensor(loss), terms)

    def loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        if self.elbo is None:
            return super().loss(model, guide, *args, **kwargs)
        with torch.enable_grad(), self._still():
            return float(self._composed(self.elbo, "loss", model, guide, args, kwargs).detach())

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        with poutine.trace(param_only=True) as seen:
            try:
                return super().loss_and_grads(model, guide, *args, **kwargs)
            except FloatingPointError:  # a loss of Pyro's may have added its gradients by itself
                nodes = seen.trace.nodes.values()
                zero_grads([node["value"].unconstrained() for node in nodes])
                raise

    def _loss_for_gradients(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        if self.elbo is None or hasattr(self.elbo, "differentiable_loss"):
            return super()._loss_for_gradients(model, guide, args, kwargs)
        return self._composed(self.elbo, "loss_and_grads", model, guide, args, kwargs)

    def _composed(
        self,
        elbo: ELBO,
        how: str,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """The loss through one of Pyro's. A critic's own is added outside, credited to no draw."""
        here().refuse(
            f"elbo={type(elbo).__name__}(...)", "leave elbo out, or train in one process"
        )
        terms, critics = Terms(), list[Tensor]()

        def cost(reading: Reading) -> Tensor:
            self._settle(reading)
            selected, alpha = self._weighed(reading), self.at_step(self.alpha)
            for name in selected:
                check_match(reading.model_sites[name], reading.guide_sites[name])
            sampled = not isinstance(elbo, TraceMeanField_ELBO)
            run = decompose(
                reading, terms, selected, self.plate, self.reconstruction, sampled=sampled
            )
            self._check_reconstruction(reading, run.reconstruction)
            added = torch.zeros_like(run.rate)
            if type(self).reconstruction is not InfoVAE.reconstruction:  # in place of the loss's
                added = run.reconstruction + sum(reading.log_prob(n) for n in reading.observed)
            if not _is_zero(alpha):
                added = added - alpha * run.rate
            if self.matched(reading):
                check_credited(elbo, reading)
                added = added + self._penalties(reading, terms, critics)
            return added

        loss = through(elbo, how, cost, model, guide, args, kwargs)
        loss = self.num_particles * loss + sum(c - c.detach() for c in critics)
        loss = self._finish(loss, terms)
        self.terms = detach_provenance(self.terms)
        return loss

    def compared(self, reading: Reading) -> list[str]:
        if self.elbo is not None or not _is_zero(1 - self.at_step(self.alpha)):
            return reading.latent
        selected = self._selected(reading)
        return [name for name in reading.latent if name not in selected]

    def matched(self, reading: Reading) -> dict[str, Divergence]:
        self._settle(reading)
        return {
            name: divergence
            for names, divergence, scale in self.joints
            if divergence is not None and not _is_zero(self._coefficient(scale))
            for name in (reading.local(self.plate) if names is None else names)
        }

    def reconstruction(self, reading: Reading, name: str) -> Tensor:
        """What an observed site adds to the loss, in nats summed over data."""
        return -reading.log_prob(name)

    def _check_reconstruction(self, reading: Reading, reconstruction: Tensor) -> None:
        """Refuses a reconstruction that trains no encoder."""

    def _settle(self, reading: Reading) -> None:
        """Puts a number in the place of each "auto", by the sizes that the first call has."""
        for i, (names, divergence, scale) in enumerate(self.joints):
            if isinstance(scale, str) and divergence is not None:
                joint, rows = reading.rows(self.plate, names)
                value = start(divergence, reading, joint, rows)
                self._check(names, divergence, value)
                self.scales["+".join(joint)] = value
                self.joints[i] = (names, divergence, value)

    def _coefficient(self, scale: Scale) -> Tensor | float:
        assert not isinstance(scale, str)
        return self.at_step(self.alpha) + self.at_step(scale) - 1

    def _particle(self, reading: Reading, terms: Terms) -> Tensor | float:
        self._settle(reading)
        selected, weight = self._weighed(reading), 1 - self.at_step(self.alpha)
        weighs = not _is_zero(weight)
        free = self.free_bits
        run = decompose(reading, terms, selected, self.plate, self.reconstruction, weighs, free)
        self._check_reconstruction(reading, run.reconstruction)
        loss = run.reconstruction + run.rest
        if weighs:
            loss = loss + weight * run.rate
        elif self.is_moving:
            self._warn_untrained(reading)
        return loss + self._divergences(reading, terms)

    def _warn_untrained(self, reading: Reading) -> None:
        """Warns once a site of a discrete prior to learn, which draws of it do not train."""
        by_draws = {k: d for k, d in self.matched(reading).items() if d.reads == "draws"}
        for name in untrained(reading, [n for n in by_draws if n not in self._warned]):
            self._warned.add(name)
            warn_untrained(reading, name, type(by_draws[name]).__name__)

    def _weighed(self, reading: Reading) -> set[str]:
        """The sites whose KL has another weight than 1, or free bits."""
        is_elbo = _is_zero(self.at_step(self.alpha)) and not self.free_bits
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

    def _divergences(self, reading: Reading, terms: Terms) -> Tensor | float:
        critics = list[Tensor]()
        loss = self._penalties(reading, terms, critics)
        for critic in critics:
            loss = loss + (critic - critic.detach())
        return loss

    def _penalties(self, reading: Reading, terms: Terms, critics: list[Tensor]) -> Tensor | float:
        """The divergences by their coefficients; what critics minimise is added to a list."""
        loss: Tensor | float = 0.0
        for names, divergence, scale in self.joints:
            coefficient = self._coefficient(scale)
            if _is_zero(coefficient) or divergence is None:
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

    def _check(
        self, joint: tuple[str, ...] | None, divergence: Divergence | None, scale: Scale
    ) -> None:
        if divergence is not None:
            instance("divergence", divergence, Divergence, "MMD()")
        of_step(self, alpha=self.alpha, scale=scale)
        for name, weight in (("alpha", self.alpha), ("scale", scale)):
            if isinstance(weight, Divergence | type):
                raise TypeError(
                    f"{type(self).__name__}: {name} is {weight!r}: give a number, or a schedule "
                    "such as Linear(0.0, 1.0)"
                )
        if isinstance(scale, str):
            if scale != "auto":
                raise ValueError(f"scale={scale!r}: use 'auto', a number or a schedule")
            if divergence is None:
                raise ValueError("scale='auto' needs a divergence, such as MMD()")
            if self.pool:
                raise ValueError("scale='auto' is per datum, pool=True per step: give a number")
            if divergence.of_unit_shift(2) is None:
                raise ValueError(
                    f"scale='auto' goes by what {type(divergence).__name__} is between two "
                    "normals, which has no closed form here (of_unit_shift gives none): give "
                    "scale a number"
                )
            return
        if callable(self.alpha) or callable(scale):
            if divergence is None and not isinstance(self, BetaVAE):
                raise ValueError("a scheduled alpha or scale needs a divergence, such as MMD()")
            return
        coefficient = self.alpha + scale - 1
        if coefficient < 0:
            raise ValueError(
                f"alpha={self.alpha} and scale={scale} add up to less than 1, which would reward "
                "divergence from the prior: raise scale"
            )
        if coefficient != 0 and divergence is None:
            where = "" if joint is None else f" for sites {joint}"
            raise ValueError(
                f"alpha={self.alpha}, scale={scale} weigh a divergence{where} and none is given: "
                "pass one, such as MMD()"
            )


class BetaVAE(InfoVAE):
    r"""The beta-VAE: the ELBO with its KL times beta.

    $$-\mathrm{E} \log p(x \mid z) + \beta\, \mathrm{KL}(q(z \mid x) \Vert p(z))$$

    beta multiplies a KL summed over latent dimensions, against a log-likelihood summed over the
    data's. KL of latents outside the data plate keeps weight 1.

    Args:
        beta: the weight, 1 for the ELBO; a number or a function of the step.
        **elbo: as in `Objective`; `sites`, `plate` and `free_bits` as in `InfoVAE`.

    References:
        Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed and Lerchner (2017), beta-VAE,
        ICLR.
    """

    def __init__(self, beta: Weight = 1.0, **elbo: Any):
        of_step(self, beta=beta)
        if not callable(beta) and beta < 0:
            raise ValueError(f"beta={beta} must not be negative")
        alpha: Weight = _OneMinus(beta) if callable(beta) else 1 - beta
        super().__init__(None, alpha=alpha, scale=beta, **elbo)
        self.beta = beta


class Autoencoder(InfoVAE):
    r"""The unregularised auto-encoder, $-\mathrm{E}_{q(z \mid x)} \log p(x \mid z)$.

    KL of latents outside the data plate stays.

    Args:
        **elbo: as in `Objective`; `sites` and `plate` as in `InfoVAE`.
    """

    def __init__(self, **elbo: Any):
        super().__init__(None, alpha=1.0, scale=0.0, **elbo)


@dataclass
class _OneMinus:
    """A class and not a closure, so that copies of an objective have copies of its schedule."""

    weight: Callable[[Tensor], Tensor]

    def __call__(self, step: Tensor) -> Tensor:
        return 1 - self.weight(step)


def _is_zero(coefficient: Tensor | float) -> bool:
    return not isinstance(coefficient, Tensor) and coefficient == 0
