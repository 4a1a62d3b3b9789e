"""Gaussian encoders."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.arguments import above_zero, whole
from ppl_vae.bodies import MLP, Body, positive
from ppl_vae.guides.encoder import NARROW, Encoder

__all__ = ["FullCovarianceNormal", "LowRankNormal", "MeanFieldNormal"]


class MeanFieldNormal(Encoder):
    r"""Normal encoder with independent coordinates.

    .. math:: q(z \mid x) = \prod_{j=1}^d \mathcal N(z_j \mid \mu_j(x), \sigma_j(x)^2)

    Args:
        size: event shape of x.
        dim: dimension d of z.
        body: factory of the network.
        initial_scale: standard deviation where the network's output is zero, so about the one
            before training.

    References:
        Kingma, Welling (2014): Auto-encoding variational Bayes. arXiv:1312.6114.

    Example:
        >>> import torch
        >>> q = MeanFieldNormal((1, 28, 28), 10)(torch.zeros(5, 1, 28, 28))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([10]))
    """

    def __init__(
        self,
        size: Sequence[int],
        dim: int,
        body: Body = MLP,
        initial_scale: float = NARROW,
    ) -> None:
        super().__init__(size, dim, body, outputs=2 * dim)
        above_zero(self, initial_scale=initial_scale)
        self.initial_scale = initial_scale

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        loc, raw = self.features(x).chunk(2, -1)
        return dist.Normal(loc, positive(raw, self.initial_scale)).to_event(1)


class FullCovarianceNormal(Encoder):
    r"""Normal encoder with a full covariance.

    .. math:: q(z \mid x) = \mathcal N(z \mid \mu(x), L(x) L(x)^\top), \qquad
              L(x) = \operatorname{diag}(s(x)) (I + R(x))

    with R strictly lower triangular, so that :math:`\log |L| = \sum_j \log s_j` and R says how the
    coordinates hang together whatever their scale.

    Args:
        size: event shape of x.
        dim: dimension d of z. The network returns d (d + 3) / 2 numbers.
        body: factory of the network.
        initial_scale: the s where the network's output is zero, so about the standard deviation
            of each coordinate before training.
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        size: Sequence[int],
        dim: int,
        body: Body = MLP,
        initial_scale: float = NARROW,
    ) -> None:
        super().__init__(size, dim, body, outputs=dim * (dim + 3) // 2)
        above_zero(self, initial_scale=initial_scale)
        self.initial_scale = initial_scale
        rows, columns = torch.tril_indices(dim, dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        d = self.dim
        loc, raw, below = self.features(x).split([d, d, d * (d - 1) // 2], -1)
        factor = torch.eye(d, dtype=loc.dtype, device=loc.device).repeat(*loc.shape[:-1], 1, 1)
        factor[..., self.rows, self.columns] = below
        scale_tril = positive(raw, self.initial_scale).unsqueeze(-1) * factor
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class LowRankNormal(Encoder):
    r"""Normal encoder with a covariance of low rank plus a diagonal.

    .. math:: q(z \mid x) = \mathcal N\big(z \mid \mu(x), S (I + W W^\top) S\big), \qquad
              S = \operatorname{diag}(s(x)), \quad W = R(x) / \sqrt r \in \mathbb R^{d \times r}

    Args:
        size: event shape of x.
        dim: dimension d of z. The network returns d (r + 2) numbers.
        body: factory of the network.
        rank: the r.
        initial_scale: the s where the network's output is zero, so about the standard deviation
            of each coordinate before training.

    Raises:
        ValueError: if the rank is below 1.
    """

    def __init__(
        self,
        size: Sequence[int],
        dim: int,
        body: Body = MLP,
        rank: int = 2,
        initial_scale: float = NARROW,
    ) -> None:
        whole(self, rank=rank)
        super().__init__(size, dim, body, outputs=dim * (rank + 2))
        self.rank = rank
        above_zero(self, initial_scale=initial_scale)
        self.initial_scale = initial_scale

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        d, r = self.dim, self.rank
        loc, raw, factor = self.features(x).split([d, d, d * r], -1)
        scale = positive(raw, self.initial_scale)
        factor = scale.unsqueeze(-1) * factor.unflatten(-1, (d, r)) / r**0.5
        return dist.LowRankMultivariateNormal(loc, factor, scale.square())
