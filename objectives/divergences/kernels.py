r"""Radial kernels, each a mixture of Gaussians over scales.

Every kernel here depends on two codes through $r^2 = \lVert z - z' \rVert_2^2$ and is positive
definite in every dimension, so that (Schoenberg, 1938) it is a scale mixture of Gaussians,

$$k(r^2) = \sum_q w_q \exp\left(-\frac{r^2}{2 m_q h^2}\right),$$

with the length-scale $h$ set by a bandwidth rule. The mixture is exact for `RBF` and a trapezoid
rule in $\log t$ for the others. It is what lets `MMD` integrate Gaussian noise out in closed form:
the expectation of a Gaussian kernel under Gaussian codes is elementary.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.objectives.divergences.diagonal import constant
from ppl_vae.objectives.divergences.weighting import weighted_median_distance

__all__ = ["IMQ", "RBF", "Bandwidth", "Kernel", "Laplacian", "MultiScale", "RationalQuadratic"]

Mixture = tuple[tuple[float, ...], tuple[float, ...]]
"""Weights w_q and multipliers m_q of a Gaussian scale mixture."""

Bandwidth = float | Literal["dimension", "tutorial", "median"]
r"""The length-scale h: a number, or a rule.

`"dimension"`: $h^2 = d$, the InfoVAE paper's $\exp(-r^2 / 2d)$ and, at sigma = 1, the Wasserstein
auto-encoder's $C = 2 d \sigma^2$. `"tutorial"`: $h^2 = d^2 / 2$, the MMD-VAE tutorial's
$\exp(-r^2 / d^2)$. `"median"`: $h^2$ is half the median squared distance between the pooled rows
of the batch, by their weights and detached; d where the median is zero.
"""


class Kernel(ABC):
    """A radial kernel; see the module's text."""

    is_distance = False
    """Whether it is minus a distance: positive definite but for a constant, which a difference of
    two distributions cancels, its mixture one of exp(...) - 1, good about r = h."""

    @abstractmethod
    def __call__(self, squared_distance: Tensor, squared_length: Tensor | float) -> Tensor:
        """Values k(r^2), elementwise, at the squared length-scale h^2."""

    @abstractmethod
    def mixture(self, scales: Sequence[float] = (1.0,)) -> Mixture:
        """The Gaussian mixture of the sum over `scales` of the kernel at $s h^2$."""

    @abstractmethod
    def squared_length(
        self,
        dim: int,
        *codes: Tensor,
        weights: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Tensor | float:
        """The squared length-scale h^2 for codes in `dim` dimensions.

        Args:
            dim: d.
            *codes: rows `(n, d)`, to be pooled; they are read by `"median"` alone.
            weights: of the pooled rows; equal by default.
            groups: of the pooled rows, integers that are equal for rows of one datum; two of
                these are no pair.
        """

    @property
    def at_zero(self) -> float:
        """The kernel's value at distance zero."""
        return 1.0

    @property
    def entries(self) -> int:
        """How many numbers a call makes at once of each squared distance."""
        return 1


@dataclass(frozen=True)
class _WithBandwidth(Kernel):
    """A kernel with a length-scale of its own.

    Args:
        bandwidth: the length-scale h, a positive number or a rule's name (see `Bandwidth`).

    Raises:
        ValueError: for a bandwidth that is neither.
    """

    bandwidth: Bandwidth = "dimension"

    def __post_init__(self) -> None:
        rule = self.bandwidth
        if isinstance(rule, str):
            if rule not in ("dimension", "tutorial", "median"):
                raise ValueError(
                    f"bandwidth {rule!r} is no rule: use 'dimension', 'tutorial', 'median' or a "
                    "positive number"
                )
        elif not rule > 0:
            raise ValueError(f"bandwidth {rule} must be positive")

    def squared_length(
        self,
        dim: int,
        *codes: Tensor,
        weights: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Tensor | float:
        if self.bandwidth == "dimension":
            return float(dim)
        if self.bandwidth == "tutorial":
            return dim**2 / 2
        if self.bandwidth == "median":
            rows = torch.cat(codes).detach()
            if len(rows) < 2:
                raise ValueError("bandwidth 'median' needs two rows or more: give a number")
            if weights is None:
                weights = rows.new_ones(len(rows))
            squared = weighted_median_distance(rows, weights.detach(), groups).square() / 2
            # Codes that are all equal have no scale of their own, and the prior's is at hand.
            return torch.where(squared > torch.finfo(squared.dtype).tiny, squared, float(dim))
        assert not isinstance(self.bandwidth, str)
        return self.bandwidth**2


@dataclass(frozen=True)
class RBF(_WithBandwidth):
    r"""The Gaussian kernel $\exp(-r^2 / 2h^2)$.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test, JMLR 13.
    """

    def __call__(self, squared_distance: Tensor, squared_length: Tensor | float) -> Tensor:
        return torch.exp(squared_distance / (-2 * squared_length))

    def mixture(self, scales: Sequence[float] = (1.0,)) -> Mixture:
        return (1.0,) * len(scales), tuple(scales)


@dataclass(frozen=True)
class RationalQuadratic(_WithBandwidth):
    r"""The rational quadratic kernel $(1 + r^2 / 2 \alpha h^2)^{-\alpha}$.

    It is the Gamma($\alpha$, 1) mixture of $\exp(-t r^2 / 2 \alpha h^2)$ over t.

    Args:
        bandwidth: the length-scale h, a positive number or a rule's name.
        alpha: the tail exponent, positive; the kernel tends to `RBF` as it grows.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha > 0:
            raise ValueError(f"alpha {self.alpha} must be positive")

    def __call__(self, squared_distance: Tensor, squared_length: Tensor | float) -> Tensor:
        base = squared_distance / (2 * self.alpha * squared_length) + 1
        return base.reciprocal() if self.alpha == 1 else base.pow(-self.alpha)

    def mixture(self, scales: Sequence[float] = (1.0,)) -> Mixture:
        return _gamma_mixture(self.alpha, tuple(scales))


@dataclass(frozen=True)
class IMQ(_WithBandwidth):
    r"""The inverse multiquadric kernel $C / (C + r^2)$ with $C = 2h^2$.

    The rule `"dimension"` gives the Wasserstein auto-encoder's $C = 2d$.

    References:
        Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders,
        arXiv:1711.01558.
    """

    def __call__(self, squared_distance: Tensor, squared_length: Tensor | float) -> Tensor:
        return (squared_distance / (2 * squared_length) + 1).reciprocal()

    def mixture(self, scales: Sequence[float] = (1.0,)) -> Mixture:
        return _gamma_mixture(1.0, tuple(scales))


@dataclass(frozen=True)
class Laplacian(_WithBandwidth):
    r"""The Laplacian kernel of the Euclidean (L2) distance, $\exp(-r / h)$.

    It is the Lévy mixture of $\exp(-t r^2 / h^2)$ over t. (Some libraries use the L1
    distance under this name; that kernel is not radial.)
    """

    def __call__(self, squared_distance: Tensor, squared_length: Tensor | float) -> Tensor:
        # The floor keeps the square root's derivative finite where two rows coincide.
        return torch.exp(-(squared_distance / squared_length).clamp_min(1e-12).sqrt())

    def mixture(self, scales: Sequence[float] = (1.0,)) -> Mixture:
        return _levy_mixture(tuple(scales))


@dataclass(frozen=True)
class MultiScale(Kernel):
    r"""The sum of one kernel at several scales, $\sum_s k(r^2; s h^2)$, with k(0) = len(scales).

    The default is the Wasserstein auto-encoder's sum of inverse multiquadrics with
    $C = 2 h^2 s$. The bandwidth is the inner kernel's.

    Args:
        kernel: the kernel to sum.
        scales: the multipliers of h^2.

    References:
        Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders,
        arXiv:1711.01558, and the scales of its published code.
    """

    kernel: Kernel = IMQ()
    scales: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales {self.scales} must be positive numbers, at least one")

    def __call__(self, squared_distance: Tensor, squared_length: Tensor | float) -> Tensor:
        like = squared_distance
        scales = constant(tuple(self.scales), like.dtype, like.device)
        return self.kernel(like[..., None], squared_length * scales).sum(-1)

    def mixture(self, scales: Sequence[float] = (1.0,)) -> Mixture:
        return self.kernel.mixture([a * b for a in scales for b in self.scales])

    def squared_length(
        self,
        dim: int,
        *codes: Tensor,
        weights: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Tensor | float:
        return self.kernel.squared_length(dim, *codes, weights=weights, groups=groups)

    @property
    def at_zero(self) -> float:
        return self.kernel.at_zero * len(self.scales)

    @property
    def entries(self) -> int:
        return self.kernel.entries * len(self.scales)


@lru_cache
def _gamma_mixture(alpha: float, scales: tuple[float, ...]) -> Mixture:
    # (1 + s)^-alpha = 1/Gamma(alpha) int t^(alpha-1) e^-t e^-ts dt, t = e^u. Below its peak at
    # log alpha the integrand falls as e^(alpha u), above it doubly exponentially.
    spread = 1 / math.sqrt(alpha) if alpha > 1 else 1 / alpha
    peak = math.log(alpha)
    return _trapezoid(
        lambda u: math.exp(alpha * u - math.exp(u) - math.lgamma(alpha)),
        left=min(peak, 0) - 14 / alpha if alpha <= 1 else peak - 14 * spread,
        right=3.0 if alpha <= 1 else peak + min(3.0, 6 * spread),
        step=0.55 * min(spread, 1.0),
        log_multiplier=peak,
        scales=scales,
    )


@lru_cache
def _levy_mixture(scales: tuple[float, ...]) -> Mixture:
    # exp(-sqrt(s)) = int e^-ts t^(-3/2) e^(-1/4t) / (2 sqrt(pi)) dt, t = e^u, s = r^2/h^2.
    return _trapezoid(
        lambda u: math.exp(-u / 2 - math.exp(-u) / 4) / (2 * math.sqrt(math.pi)),
        left=-4.5,
        right=26.0,
        step=0.5,
        log_multiplier=-math.log(2),
        scales=scales,
    )


def _trapezoid(
    density: Callable[[float], float],
    left: float,
    right: float,
    step: float,
    log_multiplier: float,
    scales: tuple[float, ...],
) -> Mixture:
    # Several scales shift one density of log m; they share a grid, which keeps the nodes few. Each
    # scale's weights sum to one exactly, so that k(0) is right.
    low = log_multiplier - right + math.log(min(scales))
    high = log_multiplier - left + math.log(max(scales))
    nodes = math.ceil((high - low) / step) + 1
    grid = [low + step * i for i in range(nodes)]
    total = [0.0] * nodes
    for scale in scales:
        weights = [density(log_multiplier + math.log(scale) - v) for v in grid]
        mass = math.fsum(weights)
        total = [t + w / mass for t, w in zip(total, weights, strict=True)]
    kept = [(w, math.exp(v)) for w, v in zip(total, grid, strict=True) if w > 1e-12]
    return tuple(w for w, _ in kept), tuple(m for _, m in kept)
