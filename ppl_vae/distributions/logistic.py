"""The discretised logistic mixture: a distribution of pixels that have finitely many levels."""

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.distributions.levels import OnGrid

__all__ = ["DiscretizedLogisticMixture", "linear_chain"]


def linear_chain(base: Tensor, slopes: Tensor | None, x: Tensor, positions: int) -> Tensor:
    r"""Parameters of a pixel's channels that depend linearly on the channels before.

    $$m_c = b_c + \sum_{d < c} a_{cd} (x_d - 1/2)$$

    Args:
        base: the $b_c$, (..., C, *S).
        slopes: the $a_{cd}$, (..., C (C - 1) / 2, *S), pairs in the order (1, 0), (2, 0),
            (2, 1), ...; None leaves `base` as it is.
        x: values in [0, 1], (..., C, *S), or only the first few of the C channels: then that
            many and one more parameters are returned.
        positions: how many dimensions S has.
    """
    if slopes is None:
        return base
    dim = -positions - 1
    known, channels = x.shape[dim], base.shape[dim]
    centred = x - 0.5
    chained = []
    for c in range(min(known + 1, channels)):
        m = base.select(dim, c)
        for d in range(c):
            m = m + slopes.select(dim, c * (c - 1) // 2 + d) * centred.select(dim, d)
        chained.append(m)
    return torch.stack(torch.broadcast_tensors(*chained), dim)


class DiscretizedLogisticMixture(dist.TorchDistribution):
    r"""Mixture of K logistic distributions, rounded to L grey levels on [0, 1].

    A pixel is one draw of a component k and, channel by channel, of a logistic variable rounded
    to the nearest level; what falls outside [0, 1] goes to the first or the last level:

    $$P(x) = \sum_k \pi_k \prod_c \Big[ \sigma\Big(\frac{x_c + \delta - m_{kc}}{s_{kc}}\Big)
      - \sigma\Big(\frac{x_c - \delta - m_{kc}}{s_{kc}}\Big) \Big], \qquad
      \delta = \frac{1}{2 (L - 1)}$$

    where the first $\sigma$ is 1 at $x_c = 1$ and the second 0 at $x_c = 0$.
    Channels follow each other linearly: $m_{kc} = \mu_{kc} + \sum_{d < c} a_{kcd}
    (x_d - 1/2)$.

    With u and l the two arguments, the bracket's logarithm is computed as
    $\log \sigma(u) + \log \sigma(-l) + \log(1 - e^{l - u})$. It is exact far out in both
    tails and for levels much closer than the scale, where the difference itself cancels. Both
    are differences in levels times the width t of a level in scales, so that two neighbours share
    their edge to the last digit and probabilities sum to 1 at any scale, however much finer than
    the digits of the location. Widths and locations beyond the powers 5/8 and 1/4 of the largest
    number (in single precision, scales below $e^{-60}$ and locations beyond
    $10^7$) count as those: products of the two stay finite.

    Args:
        logits: unnormalised log-weights of the components, (*batch, K, *S), S the positions.
        loc: locations $\mu$ in units of x, (*batch, K, C, *S).
        log_scale: log of the scales s in units of x, (*batch, K, C, *S).
        slopes: the $a_{kcd}$, (*batch, K, C (C - 1) / 2, *S), in the order of
            `linear_chain`; None makes channels independent given the component.
        positions: how many dimensions S has.
        levels: number L of grey levels.
        size: event shape, any that has the elements of (C, *S), which is the default.

    Raises:
        ValueError: if shapes do not fit each other, or there are fewer than two levels.

    References:
        Salimans, Karpathy, Chen and Kingma (2017), PixelCNN++: improving the PixelCNN with
        discretized logistic mixture likelihood and other modifications, arXiv:1701.05517.

    Example:
        >>> logits, loc = torch.zeros(5, 10), torch.rand(5, 10, 3)
        >>> p = DiscretizedLogisticMixture(logits, loc, torch.zeros(5, 10, 3))
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.real,
        "loc": constraints.real,
        "log_scale": constraints.real,
    }

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        log_scale: Tensor,
        slopes: Tensor | None = None,
        *,
        positions: int = 0,
        levels: int = 256,
        size: Sequence[int] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if levels < 2:
            raise ValueError(f"there must be at least 2 grey levels, got {levels}")
        split = logits.dim() - positions
        batch, place = logits.shape[: split - 1], logits.shape[split:]
        channels = loc.shape[split] if loc.dim() > split else 0
        pairs = channels * (channels - 1) // 2
        full = (*logits.shape[:split], channels, *place)
        if not channels or loc.shape != full or log_scale.shape != full:
            raise ValueError(
                f"logits {tuple(logits.shape)} with positions={positions} need loc and log_scale "
                f"with one dimension more, of channels, at {split}: got {tuple(loc.shape)} and "
                f"{tuple(log_scale.shape)}"
            )
        if slopes is not None and slopes.shape != (*logits.shape[:split], pairs, *place):
            raise ValueError(f"{channels} channels need {pairs} slopes, got {tuple(slopes.shape)}")
        self.inner = torch.Size((channels, *place))
        event = self.inner if size is None else torch.Size(size)
        if event.numel() != self.inner.numel():
            raise ValueError(f"size {tuple(event)} does not hold {tuple(self.inner)}")
        self.logits, self.loc, self.log_scale = logits, loc, log_scale
        self.slopes = slopes if pairs else None
        self.positions, self.levels = positions, levels
        super().__init__(batch, event, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(OnGrid(self.levels), len(self.event_shape))

    @classmethod
    def from_network(
        cls, y: Tensor, channels: int, components: int, **options: Any
    ) -> "DiscretizedLogisticMixture":
        r"""The distribution that unconstrained outputs of a network stand for.

        Locations are $(1 + y) / 2$, slopes $\tanh y$ and log-scales
        $-7 + \log(1 + e^{y + 7}) - \log 2$. This is PixelCNN++ seen from [0, 1] instead of
        [-1, 1], with a floor on the scale that does not cut its gradient off.

        Args:
            y: (*batch, `outputs(channels, components)`, *S).
            channels: number C of channels.
            components: number K of components.
            options: `positions`, `levels` and `size`, as in the constructor.
        """
        dim = y.dim() - options.get("positions", 0) - 1
        pairs = channels * (channels - 1) // 2
        shape = (components, 1 + 2 * channels + pairs)
        logits, loc, log_scale, slopes = y.unflatten(dim, shape).split(
            (1, channels, channels, pairs), dim + 1
        )
        return cls(
            logits.squeeze(dim + 1),
            0.5 + 0.5 * loc,
            F.softplus(log_scale + 7.0) - 7.0 - math.log(2.0),
            slopes.tanh() if pairs else None,
            **options,
        )

    @staticmethod
    def outputs(channels: int, components: int) -> int:
        """How many numbers for each position `from_network` reads."""
        return components * (1 + 2 * channels + channels * (channels - 1) // 2)

    def expand(
        self, batch_shape: Sequence[int], _instance: Any = None
    ) -> "DiscretizedLogisticMixture":
        new = self._get_checked_instance(DiscretizedLogisticMixture, _instance)
        batch, n = torch.Size(batch_shape), len(self.batch_shape)
        for name in ("logits", "loc", "log_scale", "slopes"):
            tensor = getattr(self, name)
            setattr(
                new, name, tensor if tensor is None else tensor.expand(batch + tensor.shape[n:])
            )
        new.positions, new.levels, new.inner = self.positions, self.levels, self.inner
        super(DiscretizedLogisticMixture, new).__init__(
            batch, self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        steps = self.levels - 1
        x = value.reshape(value.shape[: value.dim() - len(self.event_shape)] + self.inner)
        level = (x * steps).round().to(self.loc.dtype).unsqueeze(-self.positions - 2)
        loc = linear_chain(self.loc, self.slopes, level / steps, self.positions)
        first, last = level == 0, level == steps
        zero = torch.zeros((), dtype=loc.dtype, device=loc.device)
        centre, log_t = self._in_levels(loc)
        t = log_t.exp()
        # log(1 - e^-t); where t is small, log t - t/2 + O(t^2), as t itself underflows
        small = t < torch.finfo(t.dtype).eps ** 0.5
        log_bin = torch.where(
            small, log_t - t / 2, torch.log(-torch.expm1(-torch.where(small, 1.0, t)))
        )
        log_p = (
            torch.where(last, zero, F.logsigmoid((level - centre) * t))
            + torch.where(first, zero, F.logsigmoid((centre - (level - 1)) * t))
            + torch.where(first | last, zero, log_bin)
        ).sum(-self.positions - 1)
        component = -self.positions - 1
        mixed = torch.logsumexp(log_p + self.logits.log_softmax(component), component)
        return mixed.flatten(-self.positions).sum(-1) if self.positions else mixed

    def _in_levels(self, loc: Tensor) -> tuple[Tensor, Tensor]:
        """Half a level below the location, counted in levels, and log t, both bounded."""
        steps, most = self.levels - 1, math.log(torch.finfo(loc.dtype).max)
        far = math.exp(most / 4)
        log_t = (-self.log_scale - math.log(steps)).clamp(-math.exp(most / 2), most * 5 / 8)
        return (loc * steps - 0.5).clamp(-far, far), log_t

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        batch = torch.Size(sample_shape) + self.batch_shape
        noise = torch.rand(
            (*batch, 1 + self.inner[0], *self.inner[1:]),
            dtype=self.loc.dtype,
            device=self.loc.device,
        )
        return self.draw(noise).reshape(batch + self.event_shape)

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        """The sample that given uniform noise stands for.

        Args:
            noise: independent uniform numbers, (..., *batch, 1 + C, *S): the first chooses the
                component, the others the channels.

        Returns:
            Tensor of shape (..., *batch, C, *S).
        """
        dim, steps = -self.positions - 1, self.levels - 1
        which, rest = noise.split((1, self.inner[0]), dim)
        cumulative = self.logits.softmax(dim).cumsum(dim)
        # The last sum may fall short of 1 by rounding, hence the clamp.
        index = (which >= cumulative).sum(dim, keepdim=True).clamp(max=self.logits.shape[dim] - 1)

        def chosen(tensor: Tensor) -> Tensor:
            i = index.unsqueeze(dim)
            lead = torch.broadcast_shapes(i.shape[: dim - 1], tensor.shape[: dim - 1])
            full = tensor.expand(lead + tensor.shape[dim - 1 :])
            i = i.expand(*lead, 1, tensor.shape[dim], *i.shape[i.dim() + dim + 1 :])
            return full.gather(dim - 1, i).squeeze(dim - 1)

        loc = chosen(self.loc)
        # Finite factors: a noise of 0 times a scale of 0 is no number.
        info = torch.finfo(loc.dtype)
        scale = chosen(self.log_scale).clamp(max=math.log(info.max) / 2).exp()
        offset = scale * torch.logit(rest.clamp_min(info.tiny))
        slopes = None if self.slopes is None else chosen(self.slopes)
        x = loc.narrow(dim, 0, 0)
        for c in range(self.inner[0]):
            m = linear_chain(loc, slopes, x, self.positions).narrow(dim, c, 1)
            new = (m + offset.narrow(dim, c, 1)).clamp(0, 1).mul(steps).round() / steps
            x = torch.cat([x, new], dim)
        return x

    @property
    def mean(self) -> Tensor:
        r"""The mean, exact: $E x = (L - 1)^{-1} \sum_{l \ge 1} P(x \ge l / (L - 1))$.

        Raises:
            NotImplementedError: if channels depend on each other: a channel's mean is then a sum
                over all values of those before it.
        """
        if self.slopes is not None:
            raise NotImplementedError("no closed form where channels depend on each other")
        steps = self.levels - 1
        centre, log_t = self._in_levels(self.loc)
        t = log_t.exp()
        total = torch.zeros_like(self.loc)
        for level in range(1, self.levels):
            total += torch.sigmoid((centre - (level - 1)) * t)
        component = -self.positions - 2
        weights = self.logits.softmax(-self.positions - 1).unsqueeze(-self.positions - 1)
        mean = (weights * total).sum(component) / steps
        return mean.reshape(self.batch_shape + self.event_shape)
