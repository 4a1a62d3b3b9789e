"""Encoders onto the simplex, or onto its corners."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from ppl_vae import distributions
from ppl_vae.arguments import above_zero, whole
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body
from ppl_vae.guides.encoder import Encoder

__all__ = ["OneHotCategorical", "RelaxedCategorical"]


class RelaxedCategorical(Encoder):
    r"""Relaxed one-hot encoder: nearly one of d classes, with draws that can be differentiated.

    $$z = \operatorname{softmax}\big((\ell(x) + g) / \tau\big), \qquad
      g_j \sim \operatorname{Gumbel}(0, 1)$$

    Args:
        size: event shape of x.
        dim: number of classes d, at least 2.
        body: factory of the network, which returns the logits $\ell$.
        temperature: the $\tau$; at 0 the draws would be one-hot.

    Raises:
        ValueError: if there are fewer than 2 classes.

    References:
        Maddison, Mnih and Teh (2017), The concrete distribution, arXiv:1611.00712.
        Jang, Gu and Poole (2017), Categorical reparameterization with Gumbel-softmax,
        arXiv:1611.01144.
    """

    def __init__(
        self, size: Sequence[int], dim: int, body: Body = MLP, temperature: float = 0.5
    ) -> None:
        whole(self, 2, dim=dim)
        super().__init__(size, dim, body, outputs=dim)
        above_zero(self, temperature=temperature)
        self.temperature = float(temperature)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        logits = self.features(x)
        temperature = logits.new_full((), self.temperature)
        return distributions.RelaxedOneHotCategorical(temperature, logits=logits)


class OneHotCategorical(Encoder):
    r"""One-hot encoder: each x is of one of d classes.

    $$q(y = e_k \mid x) = \operatorname{softmax}(\ell(x))_k$$

    A draw passes no gradient. A guide that samples it with `infer={"enumerate": "parallel"}` sums
    over the classes instead, as `SemiSupervisedVAE` does.

    Args:
        size: event shape of x.
        dim: number of classes d, at least 2.
        body: factory of the network, which returns the logits $\ell$.

    Raises:
        ValueError: if there are fewer than 2 classes.
    """

    def __init__(self, size: Sequence[int], dim: int, body: Body = MLP) -> None:
        whole(self, 2, dim=dim)
        super().__init__(size, dim, body, outputs=dim)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        return dist.OneHotCategorical(logits=self.features(x))
