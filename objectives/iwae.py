"""The importance-weighted bound on the log-likelihood."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ppl_vae.objectives.decomposition import number_of_data
from ppl_vae.objectives.objective import Objective, Terms
from ppl_vae.objectives.particles import Particles
from ppl_vae.program.handlers import Leaves, check_runs_by_itself
from ppl_vae.program.modules import Program
from ppl_vae.program.plates import PlateName
from ppl_vae.program.reading import Reading
from ppl_vae.program.replays import indices
from ppl_vae.program.rows import Rows
from ppl_vae.program.sites import Site
from ppl_vae.world import here

__all__ = ["IWAE"]

Gradient = Literal["pathwise", "dreg"]


class IWAE(Objective):
    r"""The importance-weighted auto-encoder.

    $$-\sum_i s_i\, \mathrm{E} \log \frac{1}{K} \sum_{k=1}^K w_{ik}, \qquad
      w_{ik} = \frac{p(x_i, z_{ik})}{q(z_{ik} \mid x_i)}, \quad z_{ik} \sim q(z \mid x_i)$$

    K is `num_particles`. The logarithm is of each datum's own average: the weights are joined by
    row of the data plate, and the plate's scale $s_i$ (N / B under subsampling) stays outside. The
    value is the bound, unbiased under subsampling, and at most $\log p(x)$ with the sign turned.
    Masks stay inside: a masked row adds nothing.

    A latent site outside the data plate hangs the weights of all data together: all data are one
    row then, with $w_k = p(x, z_k) / q(z_k \mid x)$ of everything, where nothing is scaled or
    subsampled. The bound is at most $\log p(x)$ of all data, and its weights spread as widely as
    all data together make them.

    `gradient="dreg"` takes the doubly reparameterised gradient for the guide, with normalised
    weights $\tilde w_{ik}$,

    $$\sum_k \tilde w_{ik}^2\, \frac{\partial \log w_{ik}}{\partial z_{ik}}
      \frac{\partial z_{ik}}{\partial \phi},$$

    unbiased for the gradient of the same bound. Its variance falls with K where that of the plain
    one, relative to its mean, grows. The model's gradient is the plain one either way. It costs a
    second backward pass through the densities.

    Args:
        num_particles: K.
        vectorize_particles: whether the K draws are made in one run, which is faster and needs
            a model that broadcasts over a dimension on the left; "auto" finds out by four runs of
            the pair before the first, whose noise and buffers are put back.
        gradient: "pathwise" (the plain gradient) or "dreg".
        plate: the plate or plates whose entries are data; by default the one that holds a latent
            and an observation, of several the one named `data`.
        max_plate_nesting: as in `Objective`.

    Attributes:
        terms: `bound`, the loss; `reconstruction/<site>` and `rate/<site>`, the terms of the ELBO
            at the same draws, all in nats per datum.

    Raises:
        ValueError: for a latent site outside the data plate where a site is scaled or subsampled,
            so that neither an average by datum nor one of all data exists; for a site that is
            scaled unlike the others of its row, where a row's weight is no ratio of densities.
        NoDataPlate: when called, if more than one plate could be the data's.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders,
        arXiv:1509.00519.
        Tucker, Lawson, Gu and Maddison (2019), Doubly reparameterized gradient estimators for
        Monte Carlo objectives, arXiv:1810.04152.
    """

    def __init__(
        self,
        num_particles: int = 10,
        vectorize_particles: bool | Literal["auto"] = "auto",
        gradient: Gradient = "pathwise",
        *,
        plate: PlateName | None = None,
        max_plate_nesting: float = float("inf"),
    ):
        super().__init__(num_particles, vectorize_particles is True, max_plate_nesting)
        if vectorize_particles not in (True, False, "auto"):
            raise ValueError(f"vectorize_particles={vectorize_particles!r}: use 'auto' or a bool")
        if gradient not in get_args(Gradient):
            raise ValueError(f"gradient={gradient!r}: use one of {', '.join(get_args(Gradient))}")
        self.gradient: Gradient = gradient
        self.plate = plate
        self._indices: poutine.Trace | None = None
        self._draws: list[Leaves] = []
        is_open = vectorize_particles == "auto" and num_particles > 1
        self._particles = Particles() if is_open else None

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        if self._particles is not None:
            tried = partial(self._densities, model, args=args, kwargs=kwargs)
            tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
            self._indices = None
            self._draw(self._particles.broadcast(model, guide, tensors, tried))
        self._indices, self._draws = None, []
        runs = [
            _Run(reading, self.plate) for reading in self._get_traces(model, guide, args, kwargs)
        ]
        log_p = torch.cat([run.log_p for run in runs])
        log_q = torch.cat([run.log_q for run in runs])
        draws = self._draws
        self._indices, self._draws = None, []
        scale = runs[0].scale[0]
        bound = _log_mean(log_p - log_q)
        loss = -(scale * bound).sum()
        if self.gradient == "dreg" and torch.is_grad_enabled():
            loss = self._dreg(loss, log_p, log_q, scale, draws)
        common = self._common(runs)
        terms = Terms()
        for run in runs:
            run.add(terms)
        # With every row masked the bound is zero, and stays so.
        total, every = here().totals(loss + common, runs[0].data)
        data = torch.where(every > 0, every, 1)
        terms.add_mean("bound", total * self.num_particles / data)
        # What `_finish` divides by is inside the logarithm here.
        return self._finish((loss + common) * self.num_particles, terms)

    def _draw(self, together: bool) -> None:
        """Draws particles together, which takes a dimension more, or one by one."""
        if together is not self.vectorize_particles:
            self.vectorize_particles = together
            self.max_plate_nesting += 1 if together else -1

    def _densities(
        self, model: Program, guide: Program, together: bool, args: Any, kwargs: Any
    ) -> tuple[Reading, Tensor, Tensor]:
        """Of one run, of all particles together or of one, for `Particles`."""
        self._draw(together)
        run = _Run(next(iter(self._get_traces(model, guide, args, kwargs))), self.plate)
        return run.reading, run.log_p, run.log_q

    def _get_trace(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Reading:
        check_runs_by_itself(guide, "IWAE")
        if self._indices is not None:
            # Draws of one datum are averaged, so all particles see the same data.
            guide = poutine.replay(guide, trace=self._indices)
        if self.gradient == "dreg":
            self._draws.append(Leaves())
            guide = self._draws[-1](guide)
        reading = super()._get_trace(model, guide, args, kwargs)
        if self._indices is None:
            self._indices = indices(reading)
        return reading

    def _dreg(
        self,
        loss: Tensor,
        log_p: Tensor,
        log_q: Tensor,
        scale: Tensor,
        draws: "list[Leaves]",
    ) -> Tensor:
        """The value of the loss with the gradient exchanged."""
        weights = (log_p - log_q).detach().softmax(0)
        surrogate = -(scale * weights * log_p).sum()
        by_z = -(scale * weights.square() * (log_p - log_q)).sum()
        surrogate = surrogate + _pathwise(by_z, draws)
        return loss.detach() + (surrogate - surrogate.detach())

    def _common(self, runs: "list[_Run]") -> Tensor:
        """The densities observed outside the data plate: constants of every weight."""
        values = torch.cat([run.common for run in runs])
        if is_validation_enabled() and not torch.allclose(values, values[0].expand_as(values)):
            raise ValueError(
                f"{runs[0].outside} of the model depends on latent sites but is outside plate "
                f"{runs[0].rows.plates}, so the weights do not factor by datum and the bound does "
                "not exist: put it inside the plate, or use InfoVAE(alpha=0)"
            )
        return -values.mean()


class _Run:
    """One run's log-densities by row, `(particles, n)`, unscaled and masked, in nats.

    What the guide observes divides the weight as its densities do, but is differentiated as it
    stands, by `gradient="dreg"` too: it goes with `log_p`, with the sign turned.
    """

    def __init__(self, reading: Reading, plate: PlateName | None):
        self.reading = reading
        latent, model, guide = reading.latent, reading.model_sites, reading.guide_sites
        self.rows = self._rows(plate)
        observed = [model[name] for name in reading.observed]
        given = [guide[name] for name in reading.guide_observed]
        inside = [site for site in observed if site.inside(self.rows.plates)]
        given_inside = [site for site in given if site.inside(self.rows.plates)]
        outside = [site for site in observed if site not in inside]
        given_outside = [site for site in given if site not in given_inside]
        sampled = [guide[name] for name in [*latent, *reading.auxiliary]]
        priors = [model[name] for name in latent]
        self.scale = self._scale([*sampled, *priors, *inside, *given_inside])
        self.observed = {site.name: self._by_row(site) for site in inside}
        self.given = {site.name: self._by_row(site) for site in given_inside}
        self.prior = {site.name: self._by_row(site) for site in priors}
        self.guide = {site.name: self._by_row(site) for site in sampled}
        self.log_p = _sum([*self.prior.values(), *self.observed.values()])
        for log_prob in self.given.values():
            self.log_p = self.log_p - log_prob
        self.log_q = _sum(list(self.guide.values()))
        self.outside = f"observed site {', '.join(repr(s.name) for s in outside + given_outside)}"
        self.common = self.scale.new_zeros(self.rows.particles)
        for site in outside:
            self.common = self.common + self._by_particle(site)
        for site in given_outside:
            self.common = self.common - self._by_particle(site)
        # missing data are masked where they are known, and so do not tell how many data there are
        counted = guide[([n for n in latent if model[n].role == "latent"] or latent)[0]]
        if self.rows.plates:
            mask = self.rows.weights(counted.unscaled(), self.scale.detach())
            self.data = (self.scale * mask)[0].sum()
        else:
            self.data = number_of_data(reading, plate) / self.rows.particles

    def add(self, terms: Terms) -> None:
        """Adds the terms of the ELBO at these draws."""
        terms.add_data(self.data * self.rows.particles)
        for name, log_prob in self.observed.items():
            terms.add(f"reconstruction/{name}", -(self.scale * log_prob).sum())
        for name, log_prob in self.given.items():
            terms.add(f"guide/{name}", (self.scale * log_prob).sum())
        for name, log_prob in self.prior.items():
            terms.add(f"rate/{name}", (self.scale * (self.guide[name] - log_prob)).sum())

    def _rows(self, plate: PlateName | None) -> Rows:
        """The data, or all of them as one row where a latent site is outside their plate."""
        reading, latent = self.reading, self.reading.latent
        plates: tuple[str, ...] = ()
        if plate is not None or reading.candidates:
            plates = reading.plates(plate)
        outside = [name for name in latent if not reading.guide_sites[name].inside(plates)]
        if outside or not plates:
            self._check_whole((outside or latent)[0])
            return Rows.of(reading.guide_sites[latent[0]], ())
        # One site tells the rows; masks, which stay inside a weight, may differ between sites.
        return reading.rows(plates, latent[:1])[1]

    def _check_whole(self, outside: str) -> None:
        here().refuse(
            f"latent site {outside!r}, outside the data plate, with IWAE",
            "all data share one weight there; use InfoVAE(alpha=0)",
        )
        for site in [*self.reading.guide_sites.values(), *self.reading.model_sites.values()]:
            scale = site.scale
            if isinstance(scale, Tensor):
                scaled = is_validation_enabled() and bool((scale != 1).any())
            else:
                scaled = scale != 1
            if scaled:
                raise ValueError(
                    f"latent site {outside!r} is outside the data plate, so all data share one "
                    f"weight, and site {site.name!r} is scaled or subsampled, which leaves the "
                    "bound undefined: run the plate in full, use InfoVAE(alpha=0), or condition "
                    f"the model on a value of {outside!r}"
                )

    def _scale(self, sites: list[Site]) -> Tensor:
        """The scale that all sites of a row share, `(particles, n)`."""
        like = self.reading.guide_sites[self.reading.latent[0]].value.detach()
        scales = [self.rows.weights(site.unmasked(), like) for site in sites]
        if is_validation_enabled():
            for site, scale in zip(sites, scales, strict=True):
                if not torch.allclose(scale, scales[0]):
                    raise ValueError(
                        f"site {site.name!r} is scaled unlike {sites[0].name!r}, so a row's "
                        "weight is no ratio of densities: scale whole rows, and do not subsample "
                        "a plate inside them"
                    )
        return scales[0]

    def _by_row(self, site: Site) -> Tensor:
        return self.rows.sum(site.log_density())

    def _by_particle(self, site: Site) -> Tensor:
        """The scaled, masked log-density of a site outside the plate, `(particles,)`."""
        log_prob = site.log_prob()
        dim, particles = self.rows.particle_dim, self.rows.particles
        if dim is not None and log_prob.dim() >= -dim:
            return log_prob.movedim(dim, 0).reshape(particles, -1).sum(-1)
        return log_prob.sum().expand(particles)


def _pathwise(loss: Tensor, runs: Sequence[Leaves]) -> Tensor:
    """A scalar whose gradient is that of `loss` by the draws, times that of the draws."""
    total = torch.zeros_like(loss)
    leaves = [leaf for run in runs for leaf in run.leaves]
    by_leaf = iter(
        torch.autograd.grad(
            loss, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )
    for run in runs:
        grads = [next(by_leaf) for _ in run.leaves]
        # Last draw first, since its leaves are what earlier draws became.
        for i, draw in reversed(list(enumerate(run.draws))):
            if not draw.requires_grad:
                continue
            total = total + (draw * grads[i]).sum()
            if i > 0:
                parents = torch.autograd.grad(
                    draw, run.leaves[:i], grads[i], retain_graph=True, allow_unused=True
                )
                for j, more in enumerate(parents):
                    grads[j] = grads[j] if more is None else grads[j] + more
    return total


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def _sum(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)
