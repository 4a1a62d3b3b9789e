r"""Costs c(x, G(z)) of a Wasserstein auto-encoder, with $r = \lVert x - G(z) \rVert_2$."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["AbsoluteError", "Cost", "Euclidean", "SquaredError"]

Cost = Callable[[Tensor, Tensor], Tensor]
"""A function of x and G(z), both `(..., *size)` flattened to `(..., D)`, that returns `(...)`."""


@dataclass(frozen=True)
class SquaredError:
    """The squared Euclidean distance times `weight`; the published code's weight is 0.05."""

    weight: float = 1.0

    def __call__(self, x: Tensor, mean: Tensor) -> Tensor:
        return self.weight * (x - mean).square().sum(-1)


@dataclass(frozen=True)
class Euclidean:
    """The Euclidean distance times `weight`; the published code's weight is 0.2."""

    weight: float = 1.0

    def __call__(self, x: Tensor, mean: Tensor) -> Tensor:
        # The floor keeps the derivative finite at a perfect reconstruction.
        return self.weight * (x - mean).square().sum(-1).clamp_min(1e-12).sqrt()


@dataclass(frozen=True)
class AbsoluteError:
    """The L1 distance times `weight`; the published code's weight is 0.02."""

    weight: float = 1.0

    def __call__(self, x: Tensor, mean: Tensor) -> Tensor:
        return self.weight * (x - mean).abs().sum(-1)
