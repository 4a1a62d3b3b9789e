"""Rows of Gaussians over codes."""

from dataclasses import dataclass

from pyro.distributions import Delta
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.distributions import LowRankMultivariateNormal as LowRank

__all__ = ["Gaussians", "moments"]


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

    def detached(self) -> "Gaussians":
        """The same rows, without a gradient."""
        covariance = None if self.covariance is None else self.covariance.detach()
        return Gaussians(self.mean.detach(), covariance, self.points)

    @classmethod
    def of(cls, fn: TorchDistributionMixin) -> "Gaussians | None":
        """The rows of a distribution with batch `(n,)` and event `(d,)`; None if not Gaussian."""
        found = moments(fn)
        return None if found is None else cls(*found)


def moments(fn: TorchDistributionMixin) -> tuple[Tensor, Tensor | None] | None:
    """Mean and covariance (variances, matrices, or None for a point); None if not Gaussian."""
    base = fn.base_dist if isinstance(fn, Independent) else fn
    if isinstance(base, Normal):
        return base.loc, base.scale.square()
    if isinstance(base, MultivariateNormal | LowRank):
        return base.loc, base.covariance_matrix
    return (base.v, None) if isinstance(base, Delta) else None
