r"""What a divergence sees: the aggregate posterior of a batch, and the prior it is held against.

$$q_w(z) = \frac{1}{W} \sum_i w_i\, q(z \mid x_i), \qquad W = \sum_i w_i$$
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from ppl_vae.objectives.divergences.gaussians import Gaussians
from ppl_vae.objectives.divergences.weighting import stand_in
from ppl_vae.world import Processes

__all__ = [
    "AggregatePosterior",
    "DistributionPrior",
    "Prior",
    "SampledPrior",
]

T = TypeVar("T")


class Prior(ABC):
    """The prior over codes, each method computed only when a divergence asks for it."""

    is_fixed = False
    """Whether `sample` returns one set of draws, whatever number is asked."""

    @property
    def gaussian(self) -> Gaussians | None:
        """The prior as one Gaussian row, or None where it is not Gaussian."""
        return None

    @abstractmethod
    def sample(self, draws: int) -> Tensor:
        """Independent draws, `(draws, d)`, differentiable in the prior's parameters."""

    @abstractmethod
    def log_prob(self, codes: Tensor) -> Tensor:
        """The log-density of `(n, d)` codes in nats, `(n,)`."""

    def score(self, codes: Tensor) -> Tensor:
        r"""The detached score $\nabla_z \log p(z)$ at `(n, d)` codes.

        Raises:
            ValueError: for a density that does not depend on z, as a uniform one.
        """
        with torch.enable_grad():
            leaf = codes.detach().requires_grad_()
            density = self.log_prob(leaf).sum()
            score = None
            if density.requires_grad:
                (score,) = torch.autograd.grad(density, leaf, allow_unused=True)
        if score is None:
            raise ValueError(
                "the prior's log-density is constant in the codes (a uniform prior?), so it has "
                "no score: use a divergence of draws, such as MMD()"
            )
        return score


class DistributionPrior(Prior):
    """A prior given as one distribution over codes.

    Args:
        fn: a distribution of event shape `(d,)` and empty batch shape.
    """

    def __init__(self, fn: TorchDistributionMixin):
        if fn.batch_shape or len(fn.event_shape) != 1:
            raise ValueError(
                f"a prior over codes needs batch shape () and event shape (d,), not "
                f"{tuple(fn.batch_shape)} and {tuple(fn.event_shape)}: use .to_event(1)"
            )
        self.fn = fn

    @property
    def gaussian(self) -> Gaussians | None:
        row = Gaussians.of(self.fn)
        if row is None or row.covariance is None:
            return None
        return Gaussians(row.mean[None], row.covariance[None])

    def sample(self, draws: int) -> Tensor:
        shape = torch.Size((draws,))
        return self.fn.rsample(shape) if self.fn.has_rsample else self.fn.sample(shape)

    def log_prob(self, codes: Tensor) -> Tensor:
        return self.fn.log_prob(codes)


class SampledPrior(Prior):
    """A prior known by draws alone, `(m, d)`; all of them are used, whatever number is asked."""

    is_fixed = True

    def __init__(self, draws: Tensor):
        self.draws = draws

    def sample(self, draws: int) -> Tensor:
        return self.draws

    def log_prob(self, codes: Tensor) -> Tensor:
        raise ValueError("this prior is known by draws alone: give a distribution for its density")


@dataclass(frozen=True)
class AggregatePosterior:
    """The aggregate posterior of one batch as a weighted set of rows.

    A row of weight zero counts as one left out. Where it stood the codes and conditionals repeat
    one that counts, so that nothing which looks at rows and not at weights sees it, and no
    gradient reaches it.

    Attributes:
        codes: one draw of z per row, `(n, d)`, differentiable.
        prior: the prior over codes.
        weights: the rows' weights `(n,)`: the site's scale times its mask.
        groups: `(n,)` integers, equal for rows of one datum, whose pairs say nothing of q(z);
            None when all rows are distinct data.
        aligned: whether prior draw j shares the covariates of row j modulo n, so that their pair
            says nothing of independent data either.
        name: the sites, for messages.
        moving: whether queues and running statistics may move.
        conditional_of: gives q(z | x_i) by row when asked, or None where it is not Gaussian.
        shared: what `once` has computed, one dictionary for particles that share conditionals.
        drawn: the prior draws so far, by their number.
        past: detached rows of earlier batches, put there by `Memory`.
        size: the number of data the rows stand for: those not masked, times the plate's full size
            over its subsample's. Unlike the weights' sum it does not follow `poutine.scale`.
            None where no plate tells.
        data: the number of data in the batch, masked ones included, where `groups` is
            `arange(n) % data`. If None it is read from the groups, which waits for the device.
        masked: whether a row may have weight zero; else what looks at rows is spared a copy.
    """

    codes: Tensor
    prior: Prior
    weights: Tensor
    groups: Tensor | None = None
    aligned: bool = False
    name: str = "z"
    moving: bool = False
    conditional_of: Callable[[], Gaussians | None] = lambda: None
    shared: dict[object, Tensor] = field(default_factory=dict, repr=False)
    drawn: dict[int, Tensor] = field(default_factory=dict, repr=False)
    past: "AggregatePosterior | None" = None
    size: Tensor | None = None
    data: int | None = None
    masked: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", self._counting(self.codes, self.weights))

    def _counting(self, rows: Tensor, weights: Tensor) -> Tensor:
        return stand_in(rows, weights) if self.masked else rows

    @classmethod
    def of(
        cls,
        q: Tensor | TorchDistributionMixin,
        prior: Tensor | TorchDistributionMixin,
        weights: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> "AggregatePosterior":
        """Puts one together by hand, for a divergence used on its own.

        Args:
            q: codes `(n, d)`, or the conditional with batch `(n,)` and event `(d,)`.
            prior: draws `(m, d)`, or a distribution of batch `()` and event `(d,)`.
            weights: the rows' weights `(n,)`, not negative; ones by default.
            groups: see the class.

        Raises:
            ValueError: for weights or groups of another shape, or a weight below zero.

        Example:
            >>> import pyro.distributions as dist, torch
            >>> from ppl_vae.objectives import MMD, AggregatePosterior
            >>> q = dist.Normal(torch.zeros(8, 2), 1.0).to_event(1)
            >>> p = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            >>> bool(MMD()(AggregatePosterior.of(q, p)).abs() < 1e-6)
            True
        """
        conditional: Gaussians | None = None
        if isinstance(q, Tensor):
            codes = q
        else:
            conditional = Gaussians.of(q)
            codes = q.rsample()
        for what, given in (("weights", weights), ("groups", groups)):
            if given is not None and given.shape != (len(codes),):
                raise ValueError(
                    f"{what} of shape {tuple(given.shape)}: one for each of {len(codes)} rows"
                )
        if weights is not None and not (weights >= 0).all():
            raise ValueError(f"a weight is {float(weights.min())}: none may be negative or NaN")
        return cls(
            codes=codes,
            prior=SampledPrior(prior) if isinstance(prior, Tensor) else DistributionPrior(prior),
            weights=codes.new_ones(len(codes)) if weights is None else weights.to(codes),
            groups=None if groups is None else groups.unique(return_inverse=True)[1],
            conditional_of=lambda: conditional,
        )

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def dim(self) -> int:
        return self.codes.shape[-1]

    @cached_property
    def conditional(self) -> Gaussians | None:
        """q(z | x_i) by row, or None where it is not Gaussian."""
        rows = self.conditional_of()
        if rows is None:
            return None
        mean, covariance = self._counting(rows.mean, self.weights), rows.covariance
        if covariance is not None:
            covariance = self._counting(covariance, self.weights)
        return Gaussians(mean, covariance, rows.points)

    def prior_draws(self, draws: int | None = None) -> Tensor:
        """Prior draws `(m, d)`, as many as rows by default, the same at every call."""
        m = len(self) if draws is None else draws
        if m not in self.drawn:
            self.drawn[m] = self.prior.sample(m)
        return self.drawn[m]

    def weighted_prior_draws(self, draws: int | None = None) -> tuple[Tensor, Tensor]:
        """Prior draws `(m, d)` and their weights `(m,)`, which pass no gradient.

        By default there is a draw for each row, and that of a row of weight zero has none either:
        the draws are as many as the rows that count. One that shares a row's covariates stands
        for its datum, and weighs as the row.
        """
        every = self.prior_draws(draws)
        rows = self.weights.detach()
        if self.aligned:
            weights = rows[torch.arange(len(every), device=rows.device) % len(self)]
        elif draws is None and not self.prior.is_fixed:
            weights = (rows > 0).to(rows)
        else:
            return every, rows.new_ones(len(every))
        return self._counting(every, weights), weights

    def gathered(self, world: Processes) -> "AggregatePosterior":
        """The same over the rows of all processes, in the order that one process would have."""
        data = len(self) if self.groups is None or self.data is None else self.data
        choices = len(self) // data

        def gather(rows: Tensor) -> Tensor:
            return world.gather(rows.unflatten(0, (choices, data)), 1).flatten(0, 1)

        def conditional() -> Gaussians | None:
            own = self.conditional
            if own is None:
                return None
            if own.covariance is None:
                return replace(own, mean=gather(own.mean))
            width = own.mean.shape[1]
            both = gather(torch.cat([own.mean, own.covariance.flatten(1)], 1))
            rest = own.covariance.shape[1:]
            return replace(
                own, mean=both[:, :width], covariance=both[:, width:].unflatten(1, rest)
            )

        every = gather(torch.cat([self.codes, self.weights[:, None]], 1))
        whole = len(every) // choices
        groups = torch.arange(len(every), device=every.device) % whole
        return replace(
            self,
            codes=every[:, :-1],
            weights=every[:, -1],
            groups=None if self.groups is None else groups,
            data=whole,
            masked=True,  # a row of any of them may be
            conditional_of=conditional,
            size=None if self.size is None else world.total(self.size),
        )

    def once(self, key: object, compute: Callable[[], Tensor]) -> Tensor:
        """Computes what depends on the conditionals alone once for particles that share them."""
        if key not in self.shared:
            self.shared[key] = compute()
        return self.shared[key]

    def detached(self) -> "AggregatePosterior":
        """The same with codes that pass no gradient, for a critic's own loss."""
        return replace(self, codes=self.codes.detach(), conditional_of=lambda: None, shared={})
