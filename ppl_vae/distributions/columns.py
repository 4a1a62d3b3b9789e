"""A distribution over a vector whose numbers are of several kinds."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Columns"]


class Columns(dist.TorchDistribution):
    r"""Independent parts, each over some of the numbers of a vector.

    $$\log p(x) = \sum_k \log p_k(x_{P_k})$$

    Args:
        parts: distributions $p_k$ of one batch shape, each of m independent elements made one
            event by `to_event(1)`: of event shape `(m,)`, or `(m, L)` of vectors of L numbers.
        places: for each which numbers $P_k$ of the vector it is over, an integer tensor of its
            event shape; together they are 0, ..., width - 1, each once.

    Shape:
        Batch shape that of the parts, event shape `(width,)`.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        parts: Sequence[dist.TorchDistribution],
        places: Sequence[Tensor],
        validate_args: bool | None = None,
    ) -> None:
        self.parts, self.places = tuple(parts), tuple(places)
        width = sum(place.numel() for place in places)
        batch = torch.broadcast_shapes(*(part.batch_shape for part in parts))
        super().__init__(batch, torch.Size([width]), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return all(part.has_rsample for part in self.parts)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        return ByColumn([part.support for part in self.parts], self.places)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "Columns":
        new = self._get_checked_instance(Columns, _instance)
        parts = [part.expand(batch_shape) for part in self.parts]
        Columns.__init__(new, parts, self.places, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        pairs = zip(self.parts, self.places, strict=True)
        return torch.stack([part.log_prob(value[..., place]) for part, place in pairs]).sum(0)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._joined([part.sample(torch.Size(sample_shape)) for part in self.parts])

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._joined([part.rsample(torch.Size(sample_shape)) for part in self.parts])

    @property
    def mean(self) -> Tensor:
        return self._joined([part.mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        return self._joined([part.variance for part in self.parts])

    def leave_out(self, missing: Tensor) -> tuple["Columns", Tensor]:
        """The exact marginal of the numbers that are there, and what stands for the others.

        A vector of which one number is missing is missing.

        Args:
            missing: which numbers are not there, `(*batch, width)`.

        Returns:
            The distribution, and values of x: the means of real numbers, which leave a squared
            error of 0, and draws of all others.
        """
        parts, stand_ins = [], []
        for part, place in zip(self.parts, self.places, strict=True):
            base, gone = part.base_dist, missing[..., place]
            gone = gone.any(-1) if base.event_shape else gone
            base = base.expand(torch.broadcast_shapes(base.batch_shape, gone.shape))
            parts.append(base.mask(~gone).to_event(1))
            stand_ins.append(part.mean if base.support is constraints.real else part.sample())
        return Columns(parts, self.places, validate_args=False), self._joined(stand_ins)

    def _joined(self, values: Sequence[Tensor]) -> Tensor:
        order = torch.cat([place.flatten() for place in self.places]).argsort()
        flat = [
            value.flatten(-place.dim()) for value, place in zip(values, self.places, strict=True)
        ]
        return torch.cat(flat, -1)[..., order]


class ByColumn(constraints.Constraint):
    """Vectors whose parts lie in supports of their own.

    Args:
        supports: of the parts.
        places: as in `Columns`.
        each: whether numbers are checked one by one; a vector's are, together, all in or out.
    """

    def __init__(
        self,
        supports: Sequence[constraints.Constraint],
        places: Sequence[Tensor],
        each: bool = False,
    ) -> None:
        self.supports, self.places = supports, places
        self.event_dim = 0 if each else 1  # type: ignore[misc]
        super().__init__()

    @property
    def base_constraint(self) -> "ByColumn":
        """The same, asked of each number."""
        return ByColumn(self.supports, self.places, each=True)

    def check(self, value: Tensor) -> Tensor:
        inside = torch.ones_like(value, dtype=torch.bool)
        for support, place in zip(self.supports, self.places, strict=True):
            base = getattr(support, "base_constraint", support)
            found = base.check(value[..., place])
            inside[..., place] = (
                found[..., None] if found.dim() < value[..., place].dim() else found
            )
        return inside if self.event_dim == 0 else inside.all(-1)

    def __repr__(self) -> str:
        return f"({', '.join(dict.fromkeys(map(str, self.supports)))}) by column"
