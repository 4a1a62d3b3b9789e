"""Autoregressive likelihoods: images one pixel at a time, and how to sample them quickly."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae.likelihoods.likelihood import Likelihood
from ppl_vae.likelihoods.pixels import Pixels
from ppl_vae.likelihoods.shifted import Cursor
from ppl_vae.program.modules import evaluating

__all__ = ["Autoregressive", "AutoregressiveLikelihood"]


class AutoregressiveLikelihood(Likelihood):
    r"""A likelihood that factorises over pixels in raster order.

    $$\log p(x \mid z) = \sum_{i, j} \log p(x_{ij} \mid x_{<ij}, z)$$

    where $x_{<ij}$ are the rows above i and, in row i, the columns left of j. A subclass is
    a network in two stacks: a vertical one, whose features at (i, j) know the rows above i, and a
    horizontal one, which reads them and the pixels left of j. Both are made of layers of
    `ppl_vae.likelihoods.shifted` and of element-wise operations, so that sampling evaluates the
    vertical stack once for each row and the horizontal stack once for each pixel.

    Args:
        dim: dimension d of z.
        size: event shape of x: (height, width) or (channels, height, width).
        condition: module that maps z (n, d) to what both stacks take as `condition`.
        pixels: the distribution of one pixel.

    Raises:
        ValueError: if `size` is not that of an image.
    """

    def __init__(
        self, dim: int, size: Sequence[int], condition: nn.Module, pixels: Pixels
    ) -> None:
        if len(size) not in (2, 3):
            raise ValueError(
                f"{type(self).__name__} needs images of shape (height, width) or "
                f"(channels, height, width), got {tuple(size)}"
            )
        super().__init__(dim, size, lambda *_: condition)
        self.channels, self.height, self.width = (1, *self.size)[-3:]
        self.pixels = pixels

    @abstractmethod
    def vertical(
        self, x: Tensor, condition: Any, cursor: Cursor | None = None
    ) -> list[Tensor | None]:
        """Features for the horizontal stack.

        Args:
            x: the image shifted down by one row, (n, channels + 1, height, width), or one row.
            condition: what the module `condition` returned.
            cursor: None for whole images.

        Returns:
            Tensors of shape (n, any, rows, columns) whose columns number 1 or a divisor of x's;
            None for those that the horizontal stack does not read in this row.
        """

    @abstractmethod
    def horizontal(
        self, x: Tensor, links: Sequence[Tensor | None], cursor: Cursor | None = None
    ) -> Tensor:
        """The network's outputs.

        Args:
            x: the image shifted right by one column, (n, channels + 1, height, width), or one
                pixel, (n, channels + 1).
            links: what `vertical` returned, or its entries for one pixel, (n, any).
            cursor: None for whole images.

        Returns:
            (n, outputs, height, width), or (n, outputs) for one pixel.
        """

    def forward(self, z: Tensor) -> "Autoregressive":
        return Autoregressive(self, z)

    def outputs_at(self, x: Tensor, z: Tensor) -> Tensor:
        """The network's outputs for given images: those at a pixel depend on earlier pixels only.

        Args:
            x: (n, channels, height, width).
            z: (n, d).

        Returns:
            Tensor of shape (n, outputs, height, width), read by `pixels`.
        """
        # On CPUs the convolutions are faster channels-last, and hand the format on.
        y = _inputs(x).contiguous(memory_format=torch.channels_last)
        links = self.vertical(F.pad(y, (0, 0, 1, 0))[:, :, :-1], self.network(z))
        return self.horizontal(F.pad(y, (1, 0))[..., :-1], links)

    def noise(self, n: int) -> Tensor:
        """Uniform noise for `draw` or `draw_naively`, (n, any, height, width)."""
        like = next(self.parameters())
        shape = n, self.pixels.noise(self.channels), self.height, self.width
        return torch.rand(shape, dtype=like.dtype, device=like.device)

    def draw(self, z: Tensor, noise: Tensor) -> Tensor:
        """The images that given noise stands for, each pixel computed once, without dropout.

        Args:
            z: (n, d).
            noise: uniform numbers in [0, 1), as `noise` makes them.

        Returns:
            Tensor of shape (n, channels, height, width).
        """
        x = noise.new_zeros(len(z), self.channels, self.height, self.width)
        with evaluating(self), torch.inference_mode():
            condition, cursor = self.network(z), Cursor(self.width)
            above = noise.new_zeros(len(z), self.channels + 1, 1, self.width)
            for i in range(self.height):
                cursor.row = i
                links = [_columns(t) for t in self.vertical(above, condition, cursor)]
                uniform = noise[:, :, i].permute(2, 0, 1).contiguous().unbind()
                left = above.new_zeros(above.shape[:2])
                for j in range(self.width):
                    cursor.column = j
                    here = [t[j * len(t) // self.width] if t else None for t in links]
                    y = self.horizontal(left, here, cursor)
                    pixel = self.pixels.draw(y, uniform[j])
                    x[:, :, i, j] = pixel
                    left = _inputs(pixel)
                above = _inputs(x[:, :, i : i + 1])
        return x

    @torch.no_grad()
    def draw_naively(self, z: Tensor, noise: Tensor) -> Tensor:
        """The same as `draw`, with the network run on the whole image once for each pixel.

        It needs nothing of the network but `outputs_at`, and stands here to check and to time
        `draw` against.
        """
        with evaluating(self):
            x = noise.new_zeros(len(z), self.channels, self.height, self.width)
            for i in range(self.height):
                for j in range(self.width):
                    y = self.outputs_at(x, z)
                    x[:, :, i, j] = self.pixels.draw(y[:, :, i, j], noise[:, :, i, j])
        return x


def _inputs(x: Tensor) -> Tensor:
    """The pixels on [-1, 1], and a channel of ones that tells them from the zeros outside."""
    return F.pad(2 * x - 1, (0, 0) * (x.dim() - 2) + (0, 1), value=1.0)


def _columns(link: Tensor | None) -> tuple[Tensor, ...]:
    """A row of features, (n, k, 1, columns), as one tensor (n, k) for each column."""
    return () if link is None else link.squeeze(2).permute(2, 0, 1).contiguous().unbind()


class Autoregressive(dist.TorchDistribution):
    r"""The distribution p(x | z) of an `AutoregressiveLikelihood` at given z.

    `log_prob` is one pass of the network (teacher forcing: each pixel is predicted from the true
    ones before it). `sample` goes pixel by pixel. There is no `rsample`, and no closed form for
    the mean.

    Args:
        likelihood: the network.
        z: latent codes, (*batch, d).

    Shape:
        batch shape: `batch`; event shape: `likelihood.size`.
    """

    arg_constraints = {"z": constraints.real_vector}  # noqa: RUF012

    def __init__(
        self,
        likelihood: AutoregressiveLikelihood,
        z: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        if z.shape[-1:] != (likelihood.dim,):
            raise ValueError(f"expected z of shape (..., {likelihood.dim}), got {tuple(z.shape)}")
        self.likelihood, self.z = likelihood, z
        super().__init__(z.shape[:-1], likelihood.size, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self.likelihood.pixels.support, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Autoregressive":
        new = self._get_checked_instance(Autoregressive, _instance)
        batch = torch.Size(batch_shape)
        new.likelihood, new.z = self.likelihood, self.z.expand(*batch, self.z.shape[-1])
        super(Autoregressive, new).__init__(batch, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        net = self.likelihood
        leading = value.shape[: value.dim() - len(self.event_shape)]
        batch = torch.broadcast_shapes(leading, self.batch_shape)
        x = value.expand(batch + self.event_shape).to(self.z.dtype)
        x = x.reshape(-1, net.channels, net.height, net.width)
        y = net.outputs_at(x, self.z.expand(*batch, net.dim).reshape(-1, net.dim))
        return net.pixels.log_prob(y, x).reshape(batch)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        batch = torch.Size(sample_shape) + self.batch_shape
        z = self.z.detach().expand(*batch, self.z.shape[-1]).reshape(-1, self.z.shape[-1])
        x = self.likelihood.draw(z, self.likelihood.noise(len(z)))
        return x.reshape(batch + self.event_shape)
