"""A distribution that can be drawn from and nothing more."""

from collections.abc import Callable, Sequence
from typing import NoReturn

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Implicit"]


class Implicit(dist.TorchDistribution):
    r"""The law of $g(h, \varepsilon)$ with $\varepsilon \sim \mathcal N(0, I)$.

    Args:
        generator: maps h of shape (*S, m) and noise of shape (*S, noise) to z of shape (*S, d).
        features: tensor h of shape (*batch, m).
        noise: dimension of the noise.
        dim: dimension d of z.

    Shape:
        Batch shape `batch`, event shape (d,).
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        generator: Callable[[Tensor, Tensor], Tensor],
        features: Tensor,
        noise: int,
        dim: int,
    ) -> None:
        self.generator, self.features, self.noise = generator, features, noise
        super().__init__(features.shape[:-1], torch.Size([dim]), validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "Implicit":
        features = self.features.expand(*batch_shape, self.features.shape[-1])
        return Implicit(self.generator, features, self.noise, self.event_shape[0])

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)[:-1]
        h = self.features.expand(*shape, self.features.shape[-1])
        return self.generator(h, torch.randn(*shape, self.noise, dtype=h.dtype, device=h.device))

    def log_prob(self, value: Tensor) -> NoReturn:
        """Refuses.

        Raises:
            NotImplementedError: always, with what to use instead.
        """
        raise NotImplementedError(
            "an implicit distribution has no density: use an objective that needs none of it, "
            "such as InfoVAE(MMD(), alpha=1), or a guide with a density, such as MeanFieldNormal"
        )
