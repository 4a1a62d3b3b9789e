"""Priors conditioned on a covariate."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.arguments import whole
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body, apply_body, positive

__all__ = ["ConditionalNormal"]


class ConditionalNormal(nn.Module):
    r"""Normal prior whose mean and standard deviations depend on a covariate.

    $$p(z \mid c) = \prod_{j=1}^d \mathcal N(z_j \mid \mu_j(c), \sigma_j(c)^2)$$

    Args:
        dim: dimension d of z.
        size: event shape of c.
        body: factory of the network, see `ppl_vae.bodies`.

    Shape:
        c (*batch, *size) to a distribution of batch shape `batch` and event shape (d,).

    References:
        Sohn, Lee and Yan (2015), Learning structured output representation using deep conditional
        generative models, NeurIPS.

    Example:
        >>> import torch
        >>> p = ConditionalNormal(2, (10,))(torch.eye(10))
        >>> p.batch_shape, p.event_shape
        (torch.Size([10]), torch.Size([2]))
    """

    def __init__(self, dim: int, size: Sequence[int], body: Body = MLP) -> None:
        super().__init__()
        whole(self, dim=dim)
        self.dim = dim
        self.size = torch.Size(size)
        self.network = body(self.size, torch.Size([2 * dim]))

    def forward(self, c: Tensor) -> dist.TorchDistribution:
        loc, raw = apply_body(self.network, c, self.size).chunk(2, -1)
        return dist.Normal(loc, positive(raw, 1.0)).to_event(1)
