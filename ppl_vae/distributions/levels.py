"""A distribution over grey levels."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Levels"]


class Levels(dist.TorchDistribution):
    r"""A categorical distribution over the levels $0, \frac{1}{L-1}, \ldots, 1$.

    Args:
        logits: tensor of shape (*batch, L): unnormalised log-probabilities of the levels.

    Shape:
        Batch shape `batch`, event shape ().
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    has_enumerate_support = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        # Less the largest before the sum: a large common part would take the sum's digits.
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @property
    def levels(self) -> int:
        """The number of levels L."""
        return self.logits.shape[-1]

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return OnGrid(self.levels)

    def expand(self, batch_shape: torch.Size, _instance: "Levels | None" = None) -> "Levels":
        new = self._get_checked_instance(Levels, _instance)
        new.logits = self.logits.expand(*batch_shape, self.levels)
        super(Levels, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            index = torch.distributions.Categorical(logits=self.logits).sample(sample_shape)
            return index.to(self.logits.dtype) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        index = (value * (self.levels - 1)).round().long().unsqueeze(-1)
        shape = torch.broadcast_shapes(index.shape[:-1], self.batch_shape)
        logits = self.logits.expand(*shape, self.levels)
        return logits.gather(-1, index.expand(*shape, 1)).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        return self.logits.exp() @ self._grid()

    @property
    def variance(self) -> Tensor:
        gap = self._grid() - self.mean.unsqueeze(-1)
        return (self.logits.exp() * gap.square()).sum(-1)

    def _grid(self) -> Tensor:
        return torch.linspace(
            0, 1, self.levels, dtype=self.logits.dtype, device=self.logits.device
        )


class OnGrid(constraints.Constraint):
    """The numbers k / (levels - 1), up to rounding."""

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        scaled = value * (self.levels - 1)
        near = (scaled - scaled.round()).abs() < 1e-3
        return near & (value > -1e-6) & (value < 1 + 1e-6)

    def __repr__(self) -> str:
        return f"OnGrid({self.levels} levels in [0, 1])"
