"""The von Mises-Fisher distribution on the sphere."""

import math
from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.distributions.quadrature import gauss_legendre

__all__ = ["VonMisesFisher"]

NODES = 64
"""Gauss-Legendre nodes of the integrals over the angle."""

PROPOSALS = 32
"""Draws of the rejection sampler made at once. Each is accepted with probability above 0.65
whatever the dimension and the concentration, so all fail less than once in 10^14 draws. A loop
until all rows are accepted would make the host wait for the device."""


class VonMisesFisher(dist.TorchDistribution):
    r"""The von Mises-Fisher distribution on the unit sphere of $\mathbb R^d$.

    $$p(z) = \frac{e^{\kappa \mu^\top z}}{Z_d(\kappa)}, \qquad
      Z_d(\kappa) = \frac{2 \pi^{(d-1)/2}}{\Gamma(\frac{d-1}{2})}
      \int_0^\pi e^{\kappa \cos\theta} \sin^{d-2}\theta \, d\theta$$

    with respect to the surface measure; uniform at $\kappa = 0$. Everything about it is
    an integral over the angle $\theta$ to the mean direction. They are taken by quadrature
    around the mode, which needs no Bessel function, holds for every d and
    $\kappa$, and has a derivative. Draws are exact, by rejection; their derivative by
    $\kappa$ is the implicit one, by the same quadrature.

    Args:
        loc: mean direction, tensor of shape (*batch, d) and norm 1, with d at least 2.
        concentration: $\kappa \ge 0$, tensor of shape `batch`.

    Shape:
        Batch shape `batch`, event shape (d,).

    References:
        Wood (1994), Simulation of the von Mises Fisher distribution, Communications in Statistics
        23(1).
        Davidson et al. (2018), Hyperspherical variational auto-encoders, arXiv:1804.00891.
        Figurnov, Mohamed and Mnih (2018), Implicit reparameterization gradients, arXiv:1805.08498.
    """

    arg_constraints = {  # noqa: RUF012
        "loc": dist.constraints.sphere,
        "concentration": constraints.nonnegative,
    }
    has_rsample = True

    def __init__(
        self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None
    ) -> None:
        batch = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        if loc.shape[-1] < 2:
            raise ValueError("the von Mises-Fisher distribution needs at least 2 dimensions")
        self.loc = loc.expand(*batch, loc.shape[-1])
        self.concentration = concentration.expand(batch)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        return dist.constraints.sphere

    def expand(
        self, batch_shape: torch.Size, _instance: "VonMisesFisher | None" = None
    ) -> "VonMisesFisher":
        new = self._get_checked_instance(VonMisesFisher, _instance)
        new.loc = self.loc.expand(*batch_shape, *self.event_shape)
        new.concentration = self.concentration.expand(batch_shape)
        super(VonMisesFisher, new).__init__(
            torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # kappa (mu z - 1) for unit vectors, without the cancellation
        exponent = -0.5 * self.concentration * (value - self.loc).square().sum(-1)
        m = (self.event_shape[0] - 1) / 2
        log_area = math.log(2.0) + m * math.log(math.pi) - math.lgamma(m)
        return exponent - log_area - self._log_integral()

    @property
    def mean(self) -> Tensor:
        return self.loc - self.mean_gap.unsqueeze(-1) * self.loc

    @property
    def mean_gap(self) -> Tensor:
        r"""$E(1 - \cos\theta)$, by which the mean falls short of the mean direction."""
        return self._expectation(_gap)

    @property
    def variance(self) -> Tensor:
        mean = self.mean_gap.unsqueeze(-1)
        along = self._expectation(lambda theta: (_gap(theta) - mean).square()).unsqueeze(-1)
        sine = self._expectation(lambda theta: theta.sin().square()).unsqueeze(-1)
        across = sine / (self.event_shape[0] - 1)
        share = self.loc.square()
        return across * (1 - share) + along * share

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        theta = self._angle(shape[:-1])
        if self.concentration.requires_grad:
            kappa = self.concentration
            theta = theta + self._angle_derivative(theta) * (kappa - kappa.detach())
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        across = noise - (noise * self.loc).sum(-1, keepdim=True) * self.loc
        across = torch.nn.functional.normalize(across, dim=-1)
        theta = theta.unsqueeze(-1)
        return torch.nn.functional.normalize(theta.cos() * self.loc + theta.sin() * across, dim=-1)

    @torch.no_grad()
    def _angle(self, shape: torch.Size) -> Tensor:
        """Draws of the angle, by rejection."""
        gap, score = self._proposals(shape)
        accepted = score >= torch.rand_like(score).log()
        first = accepted.to(torch.uint8).argmax(0, keepdim=True)
        gap = gap.gather(0, first).squeeze(0)
        return 2 * (gap / 2).clamp(0, 1).sqrt().asin()

    @torch.no_grad()
    def _proposals(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Wood's transformed beta draws, as 1 - cos, and the logarithms of their acceptance.

        With x = (1 - b) / (1 + b), the latter is kappa cos + m log(1 - x cos) less its value at
        cos = x. Nothing is subtracted from 1, of which little is left where kappa is large.
        """
        kappa = self.concentration.expand(shape)
        m = self.event_shape[0] - 1
        b = m / (2 * kappa + (4 * kappa.square() + m * m).sqrt())
        half = torch.full_like(kappa, m / 2)
        beta = dist.Beta(half, half, validate_args=False).sample((PROPOSALS,))
        gap = 2 * b * beta / ((1 - beta) + b * beta)
        one = 2 * b / (1 + b)  # 1 - x
        rest = ((one + (1 - one) * gap) / (4 * b / (1 + b).square())).log()
        return gap, kappa * (one - gap) + m * rest

    def _log_density(self, theta: Tensor, kappa: Tensor) -> Tensor:
        """Unnormalised log-density of the angle, with the exponential's peak at 0."""
        sine = theta.sin().clamp_min(torch.finfo(theta.dtype).tiny)
        return -kappa * _gap(theta) + (self.event_shape[0] - 2) * sine.log()

    @torch.no_grad()
    def _window(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mode of the angle's density, and the ends of the interval that holds its mass."""
        kappa, m = self.concentration, self.event_shape[0] - 2
        h = ((m + (m * m + 4 * kappa.square()).sqrt()) / 2).clamp_min(1e-6)
        cosine = kappa / h
        reach = 12 / (kappa * cosine + h).sqrt()
        mode = cosine.clamp(-1, 1).acos()
        return mode, (mode - reach).clamp_min(0), (mode + reach).clamp_max(math.pi)

    def _quadrature(self) -> tuple[Tensor, Tensor]:
        """Angles, and log-weights times the unnormalised density, of shape (*batch, NODES)."""
        _, low, high = self._window()
        theta, weight = _nodes(low, high)
        return theta, weight.log() + self._log_density(theta, self.concentration.unsqueeze(-1))

    def _log_integral(self) -> Tensor:
        return self._quadrature()[1].logsumexp(-1)

    def _expectation(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        theta, log_weight = self._quadrature()
        return (log_weight.softmax(-1) * f(theta)).sum(-1)

    @torch.no_grad()
    def _angle_derivative(self, theta: Tensor) -> Tensor:
        r"""$d\theta/d\kappa = -f(\theta)^{-1} \int_0^\theta f(t) (\cos t - E\cos) dt$.

        The integral over all angles is 0, so the one from the far end serves as well: the end on
        theta's side of the mode is taken, where the integrand is at most f(theta).
        """
        mode, low, high = self._window()
        left = theta < mode
        end = torch.where(left, torch.minimum(low, theta), torch.maximum(high, theta))
        t, weight = _nodes(end, theta)
        kappa = self.concentration.unsqueeze(-1)
        ratio = (self._log_density(t, kappa) - self._log_density(theta.unsqueeze(-1), kappa)).exp()
        return -(weight * ratio * (self.mean_gap.unsqueeze(-1) - _gap(t))).sum(-1)


def _gap(theta: Tensor) -> Tensor:
    """1 - cos, without the cancellation."""
    return 2 * (theta / 2).sin().square()


def _nodes(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the integral from start to stop, of shape (*start.shape, NODES)."""
    x, w = gauss_legendre(NODES, start.dtype, start.device)
    length = (stop - start).unsqueeze(-1)
    return start.unsqueeze(-1) + length * x, length * w
