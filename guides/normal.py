"""Gaussian encoders."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.arguments import above_zero, whole
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body, positive
from ppl_vae.guides.encoder import NARROW, Encoder
from ppl_vae.guides.moments import Moments, Sd

__all__ = ["FullCovarianceNormal", "LowRankNormal", "MeanFieldNormal"]


class MeanFieldNormal(Encoder):
    r"""Normal encoder with independent coordinates.

    $$q(z \mid x) = \prod_{j=1}^d \mathcal N(z_j \mid \mu_j(x), \sigma_j(x)^2)$$

    With `standardise`, `sd` or `rate` the means are standardised over the batch and the noise is
    fixed, see `ppl_vae.guides.moments.Moments`: the code is then used from the first steps on,
    and how many nats it carries is chosen. A guide whose rows are masked or weighted hands
    the encoder their weights, `encoder(x, weights=mask)`.

    Args:
        size: event shape of x.
        dim: dimension d of z.
        body: factory of the network.
        initial_scale: standard deviation where the network's output is zero, so about the one
            before training.
        standardise: gamma, the spread of standardised means, in (0, 1]; None leaves them.
        sd: the standard deviation: a number; "tied", learned with gamma = sqrt(1 - sd^2); or None,
            read off x.
        rate: the rate in nats, in place of both: sd = exp(-rate / d).

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114.
        Zhu, Bi, Liu, Ma, Li and Wu (2020), A batch normalized inference network keeps the KL
        vanishing away, arXiv:2004.12585.

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
        standardise: float | None = None,
        sd: Sd = None,
        rate: float | None = None,
    ) -> None:
        free = sd is None and rate is None
        super().__init__(size, dim, body, outputs=2 * dim if free else dim)
        above_zero(self, initial_scale=initial_scale)
        self.initial_scale = initial_scale
        self.moments = Moments(dim, initial_scale, standardise, sd, rate)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> dist.TorchDistribution:
        loc, raw = self.features(x).tensor_split([self.dim], -1)
        return dist.Normal(*self.moments(loc, raw, weights)).to_event(1)


class FullCovarianceNormal(Encoder):
    r"""Normal encoder with a full covariance.

    $$q(z \mid x) = \mathcal N(z \mid \mu(x), L(x) L(x)^\top), \qquad
      L(x) = \operatorname{diag}(s(x)) (I + R(x))$$

    with R strictly lower triangular, so that $\log |L| = \sum_j \log s_j$ and R says how the
    coordinates hang together whatever their scale.

    Args:
        size: event shape of x.
        dim: dimension d of z. The network returns d (d + 3) / 2 numbers.
        body: factory of the network.
        initial_scale: the s where the network's output is zero, so about the standard deviation
            of each coordinate before training.
        standardise: as in `MeanFieldNormal`.
        sd: as there, of the s.
        rate: as there; the correlations add $\tfrac12 \sum_j s_j^2 \lVert R_j \rVert^2$.
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        size: Sequence[int],
        dim: int,
        body: Body = MLP,
        initial_scale: float = NARROW,
        standardise: float | None = None,
        sd: Sd = None,
        rate: float | None = None,
    ) -> None:
        free = sd is None and rate is None
        below = dim * (dim - 1) // 2 if isinstance(dim, int) else 0
        super().__init__(size, dim, body, outputs=(2 if free else 1) * dim + below)
        above_zero(self, initial_scale=initial_scale)
        self.initial_scale = initial_scale
        self.moments = Moments(dim, initial_scale, standardise, sd, rate)
        rows, columns = torch.tril_indices(dim, dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> dist.TorchDistribution:
        d = self.dim
        features = self.features(x)
        raw_end = features.shape[-1] - d * (d - 1) // 2
        loc, raw, below = features.tensor_split([d, raw_end], -1)
        loc, scale = self.moments(loc, raw, weights)
        factor = torch.eye(d, dtype=loc.dtype, device=loc.device).repeat(*loc.shape[:-1], 1, 1)
        factor[..., self.rows, self.columns] = below
        scale_tril = scale.unsqueeze(-1) * factor
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class LowRankNormal(Encoder):
    r"""Normal encoder with a covariance of low rank plus a diagonal.

    $$q(z \mid x) = \mathcal N\big(z \mid \mu(x), S (I + W W^\top) S\big), \qquad
      S = \operatorname{diag}(s(x)), \quad W = R(x) / \sqrt r \in \mathbb R^{d \times r}$$

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
