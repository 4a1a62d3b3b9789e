r"""A proposal for the latents of each row, fitted to p(z | x) with the model held.

The latents of a row are one vector u of real numbers, mapped to the support of each latent by
`torch.distributions.biject_to`. The proposal of row i is

$$u = \mu_i + L_i t, \qquad t \sim t_{10}(0, I) \quad \text{or} \quad
  u = \mu_i + \sigma_i \odot f(\varepsilon; c_i),\ \varepsilon \sim \mathcal N(0, I)$$

with a location, a scale and, for the flow, a context of its own for each row. The tails of the
Student-t are heavier than those of a posterior that falls like a Gaussian, so that its weights are
bounded where a Gaussian's, a little too narrow, have no variance. It is fitted by the bound of its
Gaussian (t of infinitely many degrees) with the gradient that vanishes at the posterior, and the
draws it is fitted with are not those it is used with.

Roeder, Wu and Duvenaud (2017), Sticking the landing, arXiv:1703.09194 (the gradient). Cremer, Li
and Duvenaud (2018), Inference suboptimality in variational autoencoders, arXiv:1801.03558 (a
proposal by row takes the encoder's own gap out of a likelihood).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import Transform, biject_to, constraints

from ppl_vae.distributions.flow import build_flow, flow_from_noise
from ppl_vae.evaluation.pair import Pair, Terms, with_values
from ppl_vae.evaluation.programs import unchecked
from ppl_vae.program.rows import Rows
from ppl_vae.program.sites import Site
from ppl_vae.state import ready_optimizers

__all__ = ["FAMILIES", "Family", "NoProposal", "Proposal", "Space", "to_support"]

Family = Literal["mean_field", "full_covariance", "flow"]
FAMILIES = get_args(Family)

FREEDOM = 10.0
"""Degrees of freedom of the Student-t."""

STARTS = 16
"""Draws of the guide whose mean and spread a fit starts from."""

SHARES = (1.0, 0.5, 0.25, 0.1, 0.0)
"""Of the guide's mean: a row starts at the one that the model likes best."""

NARROWEST = 0.05
"""The least standard deviation of u to start from: a point's has none."""


class NoProposal(ValueError):
    """No proposal can be fitted to the latents of a pair; the message says why."""


class Space:
    """The latents of some rows as one real vector u for each row.

    Args:
        pair: the pair.
        rows: which, as `Pair.run` takes them.

    Attributes:
        values: u at a draw of the guide, `(m, d)`.
        masked: 1 for each number of u whose site is masked, else 0, `(m, d)`.
    """

    def __init__(self, pair: Pair, rows: Tensor | None) -> None:
        self.pair = pair
        self.terms = pair.run(rows)
        self.maps = {name: _map(self.terms.prior[name]) for name in pair.latents}
        masked, self.widths = [], list[int]()
        for name, transform in self.maps.items():
            site = self.terms.guide[name]
            free = transform.inv(site.value.expand(site.shape))
            away = 1 - scale_and_mask(free.new_ones(site.fn.batch_shape), 1.0, site.mask)
            away = away.reshape(away.shape + (1,) * transform.domain.event_dim)
            masked.append(self._cut(site, away.expand(free.shape)))
            self.widths.append(masked[-1].shape[1])
        self.masked = torch.cat(masked, 1)
        self.values = self.of({name: self.terms.guide[name].value for name in self.maps})

    def _cut(self, site: Site, free: Tensor) -> Tensor:
        events = self.maps[site.name].domain.event_dim
        return Rows.of(site, [self.pair.plate]).cut(free, free.dim() - events)[0]

    def of(self, values: Mapping[str, Tensor]) -> Tensor:
        """The u of given latents."""
        parts = []
        for name, transform in self.maps.items():
            site = self.terms.guide[name]
            parts.append(self._cut(site, transform.inv(values[name].expand(site.shape))))
        return torch.cat(parts, 1)

    def at(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The latents at u, and log |dz / du| by row."""
        values, volume = dict[str, Tensor](), u.new_zeros(len(u))
        parts = u.split(self.widths, 1)
        for (name, transform), part in zip(self.maps.items(), parts, strict=True):
            site = self.terms.guide[name]
            shape = transform.inverse_shape(site.shape)
            batch = len(shape) - transform.domain.event_dim
            free = Rows.of(site, [self.pair.plate]).uncut(part[None], shape, batch)
            values[name] = transform(free)
            change = transform.log_abs_det_jacobian(free, values[name])
            change = change.reshape(*site.fn.batch_shape, -1).sum(-1)
            volume = volume + self.pair.per_row(scale_and_mask(change, 1.0, site.mask), site)
        return values, volume

    def log_density(self, u: Tensor) -> Tensor:
        """log p(x, z(u)) + log |dz / du| by row, and a standard normal of what is masked, so that
        it is a density of all of u."""
        values, volume = self.at(u)
        terms = Terms(self.pair, self.terms.rows, with_values(self.terms.guide, values))
        # The likelihood first: its run of the model gives the prior too.
        rest = -(u.square() + math.log(2 * math.pi)) / 2 * self.masked
        return terms.log_likelihood + terms.log_prior + volume + rest.sum(1)


@dataclass
class Proposal:
    """A fitted proposal for some rows of a pair.

    Attributes:
        pair: the pair.
        rows: the rows, all where the pair runs whole.
        family: of the proposal.
        loc: `(m, d)`.
        tril: `(m, d, d)`, of a diagonal for all but the full covariance.
        bend: the flow and the rows' contexts `(m, c)`, for the flow.
    """

    pair: Pair
    rows: Tensor | None
    family: Family
    loc: Tensor
    tril: Tensor
    bend: tuple[nn.Module, Tensor] | None = None

    @classmethod
    def fit(cls, pair: Pair, rows: Tensor | None, family: Family, steps: int) -> "Proposal":
        """Fits a proposal by Adam, from the guide's output on.

        Args:
            pair: the pair, in evaluation mode.
            rows: as `Pair.run` takes them.
            family: of the proposal.
            steps: of Adam, one draw a row each; the learning rate falls to 0 as a cosine, from .1,
                and above four dimensions from .4 / d for the d (d - 1) / 2 correlations.

        Raises:
            NoProposal: for latents that are not mapped from real vectors.
        """
        with torch.no_grad():
            draws = torch.stack([Space(pair, rows).values for _ in range(STARTS)])
            space = Space(pair, rows)
            # The codes of an encoder without a prior may lie far outside the posterior.
            nearer = torch.stack([share * draws.mean(0) for share in SHARES])
            best = torch.stack([space.log_density(u) for u in nearer]).argmax(0)
        loc = nearer[best, torch.arange(len(best), device=best.device)]
        raw = draws.std(0).clamp_min(NARROWEST).log()
        found = cls(pair, rows, family, loc, torch.diag_embed(raw.exp()))
        d = loc.shape[1]
        i, j = torch.tril_indices(d, d, -1, device=loc.device)
        below, context = loc.new_zeros(len(loc), len(i)), loc.new_zeros(len(loc), 4)
        moved = [loc, raw, *({"full_covariance": [below], "flow": [context]}.get(family, []))]
        flow = _build(d, context) if family == "flow" else None
        parameters = [*(t.requires_grad_() for t in moved), *(flow.parameters() if flow else ())]
        rates: list[dict[str, Any]] = [{"params": [p], "lr": 0.1} for p in moved]
        if family == "full_covariance":
            rates[-1]["lr"] *= min(1.0, 4 / d)
        if flow is not None:
            rates.append({"params": flow.parameters()})
        ready_optimizers()
        adam = torch.optim.Adam(rates, lr=0.01, betas=(0.9, 0.99))
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        with torch.enable_grad():
            for step in range(steps):
                factor = torch.diag_embed(torch.ones_like(raw))
                factor[:, i, j] = below
                found.loc, found.tril = loc, raw.exp()[:, :, None] * factor
                found.bend = None if flow is None else (flow, context)
                with pyro.validation_enabled(is_validation_enabled() and step == 0):
                    loss = found._loss(space)
                gradients = torch.autograd.grad(loss, parameters)
                for p, g in zip(parameters, gradients, strict=True):
                    p.grad = g.nan_to_num(0.0, 0.0, 0.0)
                adam.step()
                cosine.step()
        found.loc, found.tril = found.loc.detach(), found.tril.detach()
        found.bend = None if flow is None else (flow, context.detach())
        return found

    def _loss(self, space: Space) -> Tensor:
        """Minus the bound of one draw a row, summed; of the Student-t that of its Gaussian."""
        if self.bend is not None:
            q = self.law
            u = q.rsample()
            return (q.log_prob(u) - space.log_density(u)).sum()
        noise = torch.randn_like(self.loc)[:, :, None]
        u = self.loc + (self.tril @ noise)[:, :, 0]
        # minus the gradient of log q at u, by the path through u alone
        away = torch.linalg.solve_triangular(self.tril.detach().mT, noise, upper=True)[:, :, 0]
        return -(space.log_density(u) + (away * u).sum(1)).sum()

    @property
    def law(self) -> TorchDistributionMixin:
        """The proposal of each row's u."""
        if self.bend is not None:
            scale = self.tril.diagonal(dim1=-2, dim2=-1)
            return flow_from_noise(*self.bend, self.loc, scale)
        return dist.MultivariateStudentT(
            self.loc.new_tensor(FREEDOM), self.loc, self.tril, validate_args=False
        )

    @torch.no_grad()
    def log_weights(self, draws: int) -> Iterator[Tensor]:
        """log p(x_i, z_ik) - log q(z_ik), float64, in chunks `(m, k)` that sum to the draws."""
        together = 1
        if self.rows is not None:
            size = self.pair.block or draws * len(self.rows)
            together = max(1, min(draws, size // len(self.rows)))
        q, space, last = self.law, None, 0
        for start in range(0, draws, together):
            k = min(together, draws - start)
            rows = None if self.rows is None else self.rows.repeat_interleave(k)
            is_new = space is None or k != last
            if space is None or is_new:  # the guide says where latents stand, once
                space, last = Space(self.pair, rows), k
            u = q.sample(torch.Size([k]))
            log_q = q.log_prob(u)
            run = partial(space.log_density, u.transpose(0, 1).flatten(0, 1))
            log_p = run() if is_new else unchecked(run)
            yield log_p.double().view(-1, k) - log_q.double().T


def to_support(fn: Any) -> Transform:
    """The map from real numbers to a distribution's support.

    Raises:
        NotImplementedError: if there is none.
    """
    support, mixed = fn.support, getattr(constraints, "MixtureSameFamilyConstraint", None)
    if mixed is not None and isinstance(support, mixed):
        support = support.base_constraint  # that of the components, which torch has a map to
    if support.is_discrete:
        raise NotImplementedError
    return biject_to(support)


def _map(prior: Site) -> Transform:
    try:
        return to_support(prior.fn)
    except NotImplementedError:
        raise NoProposal(f"latent {prior.name!r} has no map to real numbers") from None


def _build(dim: int, context: Tensor) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow: nn.Module = build_flow("affine", dim, context.shape[1], 2, (32, 32))
    return flow.to(context)
