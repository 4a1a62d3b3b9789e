"""Probabilistic PCA as plain Pyro functions, with everything known in closed form.

z ~ N(0, I_d), x | z ~ N(Wz + m, s^2 I_D). The guide is q(z|x) = N(A(x - m) + b, S); by default
the exact posterior.
"""

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


def logdet(matrix: Tensor) -> float:
    return float(torch.linalg.slogdet(matrix).logabsdet)


def gaussian_kl(mean: Tensor, cov: Tensor) -> float:
    """KL(N(mean, cov) || N(0, I))."""
    return 0.5 * (float(cov.trace() + mean @ mean) - len(mean) - logdet(cov))


@dataclass
class PPCA:
    weight: Tensor
    mean: Tensor
    noise: float
    gain: Tensor
    shift: Tensor
    covariance: Tensor

    @classmethod
    def make(cls, dim=2, features=5, noise=0.7, seed=0, widen=1.0, dtype=torch.float64):
        g = torch.Generator().manual_seed(seed)
        weight = torch.randn(features, dim, generator=g, dtype=dtype)
        mean = torch.randn(features, generator=g, dtype=dtype)
        precision = torch.eye(dim, dtype=dtype) + weight.T @ weight / noise**2
        covariance = torch.linalg.inv(precision)
        gain = covariance @ weight.T / noise**2
        return cls(weight, mean, noise, gain, torch.zeros(dim, dtype=dtype), covariance * widen)

    def mean_field(self, scale: float = 1.0) -> "PPCA":
        """The guide with a diagonal covariance, `scale` times the posterior's diagonal."""
        diagonal = (self.covariance.diagonal() * scale).diag()
        return PPCA(self.weight, self.mean, self.noise, self.gain, self.shift, diagonal)

    @property
    def dim(self) -> int:
        return self.weight.shape[1]

    def sample(self, n: int, seed: int = 0) -> Tensor:
        g = torch.Generator().manual_seed(1000 + seed)
        like = {"generator": g, "dtype": self.weight.dtype}
        z = torch.randn(n, self.dim, **like)
        e = torch.randn(n, len(self.mean), **like)
        return z @ self.weight.T + self.mean + self.noise * e

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.shift.new_zeros(self.dim), 1.0).to_event(1))
            loc = z @ self.weight.T + self.mean
            pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=x)

    def guide(self, x):
        loc = (x - self.mean) @ self.gain.T + self.shift
        diagonal = self.covariance.diagonal()
        if torch.equal(self.covariance, diagonal.diag()):
            fn = dist.Normal(loc, diagonal.sqrt()).to_event(1)
        else:
            fn = dist.MultivariateNormal(loc, self.covariance)
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn)

    # Truths. "data" ones are for given rows, the others for x ~ p(x).

    @property
    def marginal(self) -> Tensor:
        """The covariance of x."""
        eye = torch.eye(len(self.mean), dtype=self.weight.dtype)
        return self.weight @ self.weight.T + self.noise**2 * eye

    def log_likelihood(self, x: Tensor) -> Tensor:
        return torch.distributions.MultivariateNormal(self.mean, self.marginal).log_prob(x)

    def codes(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.gain.T + self.shift

    def rate(self, x: Tensor) -> Tensor:
        """KL(q(z|x) || p(z)) of each row."""
        squares = self.codes(x).square().sum(1)
        return 0.5 * (self.covariance.trace() + squares - self.dim - logdet(self.covariance))

    def distortion(self, x: Tensor) -> Tensor:
        """-E_q log p(x|z) of each row."""
        residual = x - self.mean - self.codes(x) @ self.weight.T
        spread = (self.weight @ self.covariance @ self.weight.T).trace()
        squares = (residual.square().sum(1) + spread) / self.noise**2
        return 0.5 * squares + 0.5 * len(self.mean) * math.log(2 * math.pi * self.noise**2)

    @property
    def aggregate(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of q(z)."""
        return self.shift, self.gain @ self.marginal @ self.gain.T + self.covariance

    @property
    def mutual_information(self) -> float:
        return 0.5 * (logdet(self.aggregate[1]) - logdet(self.covariance))

    @property
    def marginal_kl(self) -> float:
        return gaussian_kl(*self.aggregate)

    @property
    def dimension_wise(self) -> float:
        mean, cov = self.aggregate
        return gaussian_kl(mean, cov.diagonal().diag())

    @property
    def total_correlation(self) -> float:
        return self.marginal_kl - self.dimension_wise

    def mmd(self, squared_length: float) -> float:
        """Squared MMD of q(z) and the prior under exp(-r^2 / 2h^2)."""
        mean, cov = self.aggregate
        eye = torch.eye(self.dim, dtype=cov.dtype)

        def expected(delta: Tensor, v: Tensor) -> float:
            shape = eye + v / squared_length
            quadratic = delta @ torch.linalg.solve(v + squared_length * eye, delta)
            return math.exp(-0.5 * (logdet(shape) + float(quadratic)))

        zero = torch.zeros_like(mean)
        own = expected(zero, 2 * cov) + expected(zero, 2 * eye)
        return own - 2 * expected(mean, cov + eye)
