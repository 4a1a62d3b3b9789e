"""Likelihoods of binary data and of grey values between 0 and 1."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from ppl_vae import distributions
from ppl_vae.arguments import whole
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body
from ppl_vae.likelihoods.likelihood import Likelihood

__all__ = ["Bernoulli", "Categorical", "ContinuousBernoulli"]


class Bernoulli(Likelihood):
    r"""Independent binary elements.

    $$\log p(x \mid z) = \sum_i x_i \log \pi_i(z) + (1 - x_i) \log (1 - \pi_i(z))$$

    Grey values between 0 and 1 are admitted: what is then computed is a cross-entropy, not the
    log of a density on [0, 1], and its numbers do not compare with a density's. Binarise the
    data, or use `ContinuousBernoulli`, where that matters.

    Args:
        dim: dimension d of z.
        size: event shape of x.
        body: factory of the network, which returns the logits.

    Example:
        >>> import torch
        >>> p = Bernoulli(10, (1, 28, 28))(torch.zeros(5, 10))
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([1, 28, 28]))
    """

    def __init__(self, dim: int, size: Sequence[int], body: Body = MLP) -> None:
        super().__init__(dim, size, body)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        (logits,) = self.features(z)
        return self.event(distributions.Bernoulli(logits=logits))


class ContinuousBernoulli(Likelihood):
    r"""Independent elements on [0, 1] with density proportional to the Bernoulli formula.

    $$p(x_i \mid z) = C(\ell_i) \, \pi_i^{x_i} (1 - \pi_i)^{1 - x_i}, \qquad
      C(\ell) = \ell / \tanh(\ell / 2), \quad \pi = 1 / (1 + e^{-\ell})$$

    Args:
        dim: dimension d of z.
        size: event shape of x.
        body: factory of the network, which returns the logits $\ell$.

    References:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in
        variational autoencoders, arXiv:1907.06845.
    """

    def __init__(self, dim: int, size: Sequence[int], body: Body = MLP) -> None:
        super().__init__(dim, size, body)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        (logits,) = self.features(z)
        return self.event(distributions.ContinuousBernoulli(logits=logits))


class Categorical(Likelihood):
    r"""Independent categorical elements over equally spaced grey levels.

    $$p\Big(x_i = \frac{k}{L - 1} \,\Big|\, z\Big) =
      \operatorname{softmax}(\ell_i(z))_k, \qquad k = 0, \ldots, L - 1$$

    An exact likelihood of 8-bit images scaled to [0, 1]. It knows no order among the levels, and
    the network returns L numbers for each element.

    Args:
        dim: dimension d of z.
        size: event shape of x.
        body: factory of the network, which returns the logits.
        levels: number of levels L, at least 2.

    Raises:
        ValueError: if there are fewer than 2 levels.

    References:
        van den Oord, Kalchbrenner and Kavukcuoglu (2016), Pixel recurrent neural networks,
        arXiv:1601.06759.
    """

    def __init__(self, dim: int, size: Sequence[int], body: Body = MLP, levels: int = 256) -> None:
        whole(self, 2, levels=levels)
        super().__init__(dim, size, body, outputs=levels)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        logits = self.raw(z).movedim(z.dim() - 1, -1)
        return self.event(distributions.Levels(logits))
