r"""Costs c(x, G(z)) of a Wasserstein auto-encoder, with $r = \lVert x - G(z) \rVert_2$."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["AbsoluteError", "Cost", "Euclidean", "SquaredError"]

Cost = Callable[[Tensor, Tensor], Tensor]
"""A function of x and G(z), both `(..., *size)` flattened to `(..., D)`, that returns `(...)`."""


@dataclass(frozen=True)
class SquaredError:
    r"""The squared Euclidean distance, $w\, r^2$ with $r = \lVert x - G(z) \rVert_2$.

    Args:
        weight: the w, positive; the published code has 0.05.

    Shape:
        `(..., D)` and `(..., D)` to `(...)`.

    References:
        Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders,
        arXiv:1711.01558.
    """

    weight: float = 1.0

    def __call__(self, x: Tensor, mean: Tensor) -> Tensor:
        return self.weight * (x - mean).square().sum(-1)


@dataclass(frozen=True)
class Euclidean:
    r"""The Euclidean distance, $w\, r$ with $r = \lVert x - G(z) \rVert_2$.

    Args:
        weight: the w, positive; the published code has 0.2.

    Shape:
        `(..., D)` and `(..., D)` to `(...)`.

    References:
        Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders,
        arXiv:1711.01558.
    """

    weight: float = 1.0

    def __call__(self, x: Tensor, mean: Tensor) -> Tensor:
        # The floor keeps the derivative finite at a perfect reconstruction.
        return self.weight * (x - mean).square().sum(-1).clamp_min(1e-12).sqrt()


@dataclass(frozen=True)
class AbsoluteError:
    r"""The L1 distance, $w\, \lVert x - G(z) \rVert_1$.

    Args:
        weight: the w, positive; the published code has 0.02.

    Shape:
        `(..., D)` and `(..., D)` to `(...)`.

    References:
        Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders,
        arXiv:1711.01558.
    """

    weight: float = 1.0

    def __call__(self, x: Tensor, mean: Tensor) -> Tensor:
        return self.weight * (x - mean).abs().sum(-1)
