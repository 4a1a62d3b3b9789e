"""An encoder uniform on boxes."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae import distributions
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body
from ppl_vae.guides.encoder import Encoder

__all__ = ["UniformBox"]

SMALLEST = 1e-4
"""Smallest side of a box, as a share of the prior's: in single precision its ends still differ."""


class UniformBox(Encoder):
    r"""Encoder uniform on a box inside the prior's.

    $$q(z \mid x) = \prod_{j=1}^d \mathcal U(z_j \mid l_j(x), l_j(x) + w_j(x)), \qquad
      a \le l_j(x), \quad l_j(x) + w_j(x) \le b$$

    so that its KL against the uniform prior on $[a, b]^d$ is finite, and
    $\sum_j \log\big((b - a) / w_j(x)\big)$.

    Args:
        size: event shape of x.
        dim: dimension d of z.
        body: factory of the network.
        low: lower end a of the prior's box.
        high: upper end b of the prior's box.
        initial_width: side of the box where the network's output is zero, so about the one
            before training, as a share of the prior's.

    Raises:
        ValueError: if low is not below high, or the width is not a share.

    References:
        Rubenstein, Schölkopf and Tolstikhin (2018), On the latent space of Wasserstein
        auto-encoders, arXiv:1802.03761.
    """

    def __init__(
        self,
        size: Sequence[int],
        dim: int,
        body: Body = MLP,
        low: float = -1.0,
        high: float = 1.0,
        initial_width: float = 0.25,
    ) -> None:
        if not -math.inf < low < high < math.inf:
            raise ValueError(
                f"low must be below high and both finite, got low={low:g}, high={high:g}"
            )
        if not SMALLEST < initial_width < 1:
            raise ValueError(
                f"initial_width is a share of the prior's box, between {SMALLEST:g} and 1, "
                f"got {initial_width:g}"
            )
        super().__init__(size, dim, body, outputs=2 * dim)
        self.low, self.high = low, high
        share = (initial_width - SMALLEST) / (1 - SMALLEST)
        self.start = torch.tensor(share, dtype=torch.float64).logit().item()

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        place, raw = self.features(x).chunk(2, -1)
        width = SMALLEST + (1 - SMALLEST) * (raw + self.start).sigmoid()
        side = self.high - self.low
        left = self.low + side * (1 - width) * place.sigmoid()
        right = (left + side * width).clamp_max(self.high)
        return distributions.Uniform(left, right).to_event(1)
