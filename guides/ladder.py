"""The encoder of several layers of codes."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.arguments import above_zero
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body, apply_body
from ppl_vae.guides.encoder import NARROW
from ppl_vae.guides.moments import Moments, Sd

__all__ = ["Ladder", "precision_weighted"]


class Ladder(nn.Module):
    r"""The bottom-up half of a ladder: what x says of each layer of codes, before the prior.

    $$h_1 = f_1(x), \quad h_l = f_l(h_{l-1}), \qquad
      \hat q_l(z_l \mid x) = \mathcal N\big(\hat\mu_l(h_l), \hat\sigma_l(h_l)^2\big)$$

    The guide then goes down: the top layer is drawn from its $\hat q_L$, and every other
    from the product of its $\hat q_l$ and the prior given the layer above, see
    `precision_weighted`. `HierarchicalVAE` does so.

    Args:
        size: event shape of x.
        dims: dimensions of the codes $z_1, \ldots, z_L$, the layer next to x first.
        body: factory of $f_1$.
        features: how many numbers each $h_l$ holds.
        hidden: widths of the hidden layers of $f_2, \ldots, f_L$.
        initial_scale: the $\hat\sigma$ where the network's output is zero, so about the
            one before training.
        standardise: of the layer next to x, as in `MeanFieldNormal`.
        sd: of that layer too.
        rate: of that layer too.

    Shape:
        x (*batch, *size) to L distributions, the one next to x first, of batch shape `batch` and
        event shapes $(d_l,)$.

    Raises:
        ValueError: for fewer than 2 layers.

    References:
        Sønderby, Raiko, Maaløe, Sønderby and Winther (2016), Ladder variational autoencoders,
        arXiv:1602.02282.

    Example:
        >>> import torch
        >>> lower, upper = Ladder((1, 8, 8), (10, 2))(torch.zeros(5, 1, 8, 8))
        >>> lower.event_shape, upper.event_shape
        (torch.Size([10]), torch.Size([2]))
    """

    def __init__(
        self,
        size: Sequence[int],
        dims: Sequence[int],
        body: Body = MLP,
        features: int = 128,
        hidden: Sequence[int] = (128,),
        initial_scale: float = NARROW,
        standardise: float | None = None,
        sd: Sd = None,
        rate: float | None = None,
    ) -> None:
        super().__init__()
        if isinstance(dims, int) or len(dims) < 2 or min(dims) < 1:
            raise ValueError(
                "a ladder needs the dimensions, at least 1 each, of two or more layers of codes, "
                f"such as [16, 4], got {dims}"
            )
        self.size = torch.Size(size)
        self.dims = tuple(dims)
        above_zero(self, initial_scale=initial_scale)
        self.initial_scale = initial_scale
        wide = torch.Size([features])
        self.bodies = nn.ModuleList(
            [body(self.size, wide), *(MLP(wide, wide, hidden) for _ in dims[1:])]
        )
        free = sd is None and rate is None
        outputs = [dims[0] * (2 if free else 1), *(2 * dim for dim in dims[1:])]
        self.heads = nn.ModuleList(nn.Linear(features, n) for n in outputs)
        settings = [(standardise, sd, rate), *[(None, None, None)] * len(dims[1:])]
        self.moments = nn.ModuleList(
            Moments(dim, initial_scale, *chosen)
            for dim, chosen in zip(dims, settings, strict=True)
        )

    def forward(
        self, x: Tensor, weights: Tensor | None = None
    ) -> tuple[dist.TorchDistribution, ...]:
        messages, inputs, h = [], self.size, x
        for d, *layers in zip(self.dims, self.bodies, self.heads, self.moments, strict=True):
            body, head, moments = layers
            h = apply_body(body, h, inputs).relu()
            inputs = h.shape[-1:]
            loc, raw = head(h).tensor_split([d], -1)
            messages.append(dist.Normal(*moments(loc, raw, weights)).to_event(1))
        return tuple(messages)


def precision_weighted(
    message: dist.TorchDistribution, prior: dist.TorchDistribution
) -> dist.TorchDistribution:
    r"""The normalised product of two normals with independent coordinates.

    $$\sigma^{-2} = \hat\sigma^{-2} + \sigma_p^{-2}, \qquad
      \mu = \sigma^2 \big(\hat\sigma^{-2} \hat\mu + \sigma_p^{-2} \mu_p\big)$$

    Args:
        message: what the data say, `Normal(...).to_event(1)`.
        prior: what the layers above say, the same.

    Raises:
        ValueError: if either is no such normal.
    """
    parts = []
    for fn in (message, prior):
        base = getattr(fn, "base_dist", None)
        if not isinstance(base, dist.Normal) or len(fn.event_shape) != 1:
            raise ValueError(
                "a ladder multiplies normals with independent coordinates, and "
                f"{type(base or fn).__name__} is none: use ConditionalNormal below the top"
            )
        parts.append((base.loc, base.scale.square().reciprocal()))
    (a, precision_a), (b, precision_b) = parts
    variance = (precision_a + precision_b).reciprocal()
    loc = variance * (precision_a * a + precision_b * b)
    return dist.Normal(loc, variance.sqrt()).to_event(1)
