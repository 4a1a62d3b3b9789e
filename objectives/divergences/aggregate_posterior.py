r"""What a divergence sees: the aggregate posterior of a batch, and the prior it is held against.

$$q_w(z) = \frac{1}{W} \sum_i w_i\, q(z \mid x_i), \qquad W = \sum_i w_i$$
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from pyro.distributions import Delta, Independent, MultivariateNormal, Normal
from pyro.distributions import LowRankMultivariateNormal as LowRank
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

__all__ = [
    "AggregatePosterior",
    "DistributionPrior",
    "Gaussians",
    "Prior",
    "SampledPrior",
    "moments",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Gaussians:
    """Rows of Gaussians over codes.

    Attributes:
        mean: means, `(n, d)`.
        covariance: None for points, `(n, d)` for variances, `(n, d, d)` for covariances.
        points: the sites that enter as draws, of no variance and so without a density.
    """

    mean: Tensor
    covariance: Tensor | None = None
    points: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def is_full(self) -> bool:
        """Whether the covariance is a matrix a row, not a vector of variances."""
        return self.covariance is not None and self.covariance.dim() > self.mean.dim()

    def __getitem__(self, rows: Tensor) -> "Gaussians":
        covariance = self.covariance
        taken = None if covariance is None else covariance[rows]
        return Gaussians(self.mean[rows], taken, self.points)

    @classmethod
    def of(cls, fn: TorchDistributionMixin) -> "Gaussians | None":
        """The rows of a distribution with batch `(n,)` and event `(d,)`; None if not Gaussian."""
        found = moments(fn)
        return None if found is None else cls(*found)


class Prior(ABC):
    """The prior over codes, each method computed only when a divergence asks for it."""

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

    def __init__(self, draws: Tensor):
        self.draws = draws

    def sample(self, draws: int) -> Tensor:
        return self.draws

    def log_prob(self, codes: Tensor) -> Tensor:
        raise ValueError("this prior is known by draws alone: give a distribution for its density")


@dataclass(frozen=True)
class AggregatePosterior:
    """The aggregate posterior of one batch as a weighted set of rows.

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
            weights: the rows' weights `(n,)`; ones by default.
            groups: see the class.

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
        return cls(
            codes=codes,
            prior=SampledPrior(prior) if isinstance(prior, Tensor) else DistributionPrior(prior),
            weights=codes.new_ones(len(codes)) if weights is None else weights,
            groups=groups,
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
        return self.conditional_of()

    def prior_draws(self, draws: int | None = None) -> Tensor:
        """Prior draws `(m, d)`, as many as rows by default, the same at every call."""
        m = len(self) if draws is None else draws
        if m not in self.drawn:
            self.drawn[m] = self.prior.sample(m)
        return self.drawn[m]

    def once(self, key: object, compute: Callable[[], Tensor]) -> Tensor:
        """Computes what depends on the conditionals alone once for particles that share them."""
        if key not in self.shared:
            self.shared[key] = compute()
        return self.shared[key]

    def detached(self) -> "AggregatePosterior":
        """The same with codes that pass no gradient, for a critic's own loss."""
        return replace(self, codes=self.codes.detach(), conditional_of=lambda: None, shared={})


def moments(fn: TorchDistributionMixin) -> tuple[Tensor, Tensor | None] | None:
    """Mean and covariance (variances, matrices, or None for a point); None if not Gaussian."""
    base = fn.base_dist if isinstance(fn, Independent) else fn
    if isinstance(base, Normal):
        return base.loc, base.scale.square()
    if isinstance(base, MultivariateNormal | LowRank):
        return base.loc, base.covariance_matrix
    return (base.v, None) if isinstance(base, Delta) else None
