"""PixelCNN++, conditioned on a latent code."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_vae.arguments import whole
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body
from ppl_vae.likelihoods.autoregressive import AutoregressiveLikelihood
from ppl_vae.likelihoods.condition import Condition, Maps
from ppl_vae.likelihoods.pixels import LogisticPixels, Pixels
from ppl_vae.likelihoods.shifted import Cursor, ShiftedConv2d, Upsampling

__all__ = ["PixelCNNpp"]

_PIXELS = LogisticPixels()


class PixelCNNpp(AutoregressiveLikelihood):
    r"""PixelCNN++: shifted convolutions in gated residual blocks, at several resolutions.

    Two stacks of blocks, the vertical one with kernels 2x3 and the horizontal one with 2x2:

    $$c = W_1 * f(x) + U f(a), \quad (b, g) = W_2 * f(c) + V z, \quad
      x' = x + b \odot \sigma(g), \quad f(x) = \operatorname{elu}([x, -x])$$

    where a is the vertical stack's feature (in the horizontal stack) and, on the way back, the
    feature from the way there. `scales` above 1 puts blocks at half the resolution, and so on, in
    the middle. Each pixel is a discretised logistic mixture.

    Left out of the original: weight normalisation and its start from a batch of data.

    Args:
        dim: dimension d of z.
        size: event shape of x: (height, width) or (channels, height, width).
        pixels: the distribution of one pixel; `LogisticPixels()` by default.
        width: channels of both stacks; 160 in the paper.
        depth: blocks in a row, both on the way there and back; 5 in the paper.
        scales: number of resolutions; 3 in the paper. Height and width must be divisible by
            2 ** (scales - 1).
        dropout: share of features left out in training; 0.5 in the paper.
        maps: images that z becomes besides, as in `PixelCNN`, which enter the first layers; 0 for
            none, as in the paper.
        body: factory of the network that makes them.

    Raises:
        ValueError: if the size is not that of an image, or cannot be halved so often.

    References:
        Salimans, Karpathy, Chen and Kingma (2017), PixelCNN++: improving the PixelCNN with
        discretized logistic mixture likelihood and other modifications, arXiv:1701.05517.

    Example:
        >>> p = PixelCNNpp(10, (3, 4, 4), width=8, depth=1, scales=2)(torch.zeros(5, 10))
        >>> p.batch_shape, p.event_shape, p.sample().shape
        (torch.Size([5]), torch.Size([3, 4, 4]), torch.Size([5, 3, 4, 4]))
    """

    def __init__(
        self,
        dim: int,
        size: Sequence[int],
        pixels: Pixels = _PIXELS,
        width: int = 32,
        depth: int = 2,
        scales: int = 1,
        dropout: float = 0.0,
        maps: int = 4,
        body: Body = MLP,
    ) -> None:
        whole(self, dim=dim, width=width, depth=depth, scales=scales)
        whole(self, 0, maps=maps)
        # A level has as many blocks on the way back as it has features to take up there: one for
        # each block on the way there and, but for the last level, one for its input.
        blocks = 2 * (depth * scales + depth * scales + scales - 1)
        super().__init__(dim, size, Condition(dim, blocks * 2 * width, maps, size, body), pixels)
        times = 2 ** (scales - 1)
        if self.height % times or self.width % times:
            raise ValueError(
                f"{scales} scales need height and width divisible by {times}, got "
                f"{self.height}x{self.width}: give fewer scales or pad the images"
            )
        n = self.channels + 1
        self.blocks = blocks
        # The image is shifted already, so these kernels may end at their own row and column.
        self.first = ShiftedConv2d(n, width, (2, 3))
        self.above = ShiftedConv2d(n, width, (1, 3))
        self.left = ShiftedConv2d(n, width, (2, 1), right=True)
        self.maps = Maps(maps, width) if maps else None
        self.levels = _Level(width, depth, scales, dropout)
        self.head = ShiftedConv2d(width, pixels.outputs(self.channels))

    def vertical(
        self, x: Tensor, condition: tuple[Tensor, Tensor | None], cursor: Cursor | None = None
    ) -> list[Tensor | None]:
        biases, maps = condition
        per_block = biases[..., None, None].chunk(self.blocks, 1)
        to_v, to_h = (None, None) if self.maps is None else self.maps(maps, cursor)
        _, links = self.levels.vertical(self.first(x, cursor, to_v), per_block, cursor)
        return [self.above(x, cursor, to_h), *links]

    def horizontal(
        self, x: Tensor, links: Sequence[Tensor | None], cursor: Cursor | None = None
    ) -> Tensor:
        h = self.left(x, cursor, links[0])
        return self.head(F.elu(self.levels.horizontal(h, links[1:], cursor)), cursor)


class _Level(nn.Module):
    """Blocks at one resolution, and in their middle the level at half of it."""

    def __init__(self, width: int, depth: int, scales: int, dropout: float) -> None:
        super().__init__()
        last = scales == 1
        self.there = nn.ModuleList(_Pair(width, dropout, back=False) for _ in range(depth))
        self.inner = None if last else _Level(width, depth, scales - 1, dropout)
        self.back = nn.ModuleList(
            _Pair(width, dropout, back=True) for _ in range(depth if last else depth + 1)
        )
        if not last:
            self.down_v = ShiftedConv2d(width, width, (2, 3), stride=2)
            self.down_h = ShiftedConv2d(width, width, (2, 2), stride=2, right=True)
            self.up_v = Upsampling(width, width)
            self.up_h = Upsampling(width, width)

    def vertical(
        self, x: Tensor, biases: Sequence[Tensor], cursor: Cursor | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Runs the vertical stack.

        Args:
            x: features of this resolution.
            biases: what z adds, two for each pair of blocks.
            cursor: that of this resolution.

        Returns:
            Features of the same shape; and for each pair of blocks, two tensors that `horizontal`
            reads, or two times None where it does not.
        """
        start, stop = 2 * len(self.there), len(biases) - 2 * len(self.back)
        links: list[Tensor | None] = []
        y = _elus(x)
        skips = [y]
        for i, pair in enumerate(_pairs(self.there)):
            x = pair.vertical(x, y, None, biases[2 * i], cursor)
            y = _elus(x)
            skips.append(y)
            links += pair.link(y, cursor), biases[2 * i + 1]
        if self.inner is None:
            skips.pop()
        else:
            x, inner = self._vertical_inner(x, biases[start:stop], cursor)
            y = _elus(x)
            links += inner
        for i, pair in enumerate(_pairs(self.back)):
            x = pair.vertical(x, y, pair.skip_v(skips.pop(), cursor), biases[stop + 2 * i], cursor)
            y = _elus(x)
            links += pair.link(y, cursor), biases[stop + 2 * i + 1]
        return x, links

    def _vertical_inner(
        self, x: Tensor, biases: Sequence[Tensor], cursor: Cursor | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        assert self.inner is not None
        if cursor is not None and cursor.row % 2:
            self.down_v.window(x, cursor)
            return self.up_v(None, cursor), [None] * len(biases)
        coarse = None if cursor is None else cursor.coarser
        low, links = self.inner.vertical(self.down_v(x, cursor), biases, coarse)
        return self.up_v(low, cursor), links

    def horizontal(
        self, x: Tensor, links: Sequence[Tensor | None], cursor: Cursor | None
    ) -> Tensor:
        """Runs the horizontal stack, on what `vertical` returned as its second value."""
        start, stop = 2 * len(self.there), len(links) - 2 * len(self.back)
        y = _elus(x)
        skips = [y]
        for i, pair in enumerate(_pairs(self.there)):
            x = pair.horizontal(x, y, links[2 * i], links[2 * i + 1], cursor)
            y = _elus(x)
            skips.append(y)
        if self.inner is None:
            skips.pop()
        else:
            x = self._horizontal_inner(x, links[start:stop], cursor)
            y = _elus(x)
        for i, pair in enumerate(_pairs(self.back)):
            link, bias = links[stop + 2 * i : stop + 2 * i + 2]
            link = pair.skip_h(skips.pop(), cursor, link)
            x = pair.horizontal(x, y, link, bias, cursor)
            y = _elus(x)
        return x

    def _horizontal_inner(
        self, x: Tensor, links: Sequence[Tensor | None], cursor: Cursor | None
    ) -> Tensor:
        assert self.inner is not None
        if cursor is not None and (cursor.row % 2 or cursor.column % 2):
            self.down_h.window(x, cursor)
            return self.up_h(None, cursor)
        coarse = None if cursor is None else cursor.coarser
        low = self.inner.horizontal(self.down_h(x, cursor), links, coarse)
        return self.up_h(low, cursor)


class _Pair(nn.Module):
    """A vertical block, the horizontal one next to it, and what leads to them."""

    def __init__(self, width: int, dropout: float, back: bool) -> None:
        super().__init__()
        self.vertical = _Block(width, (2, 3), False, dropout)
        self.horizontal = _Block(width, (2, 2), True, dropout)
        self.link = ShiftedConv2d(2 * width, width, bias=False)
        if back:
            self.skip_v = ShiftedConv2d(2 * width, width, bias=False)
            self.skip_h = ShiftedConv2d(2 * width, width, bias=False)


def _pairs(modules: nn.ModuleList) -> list[_Pair]:
    return cast("list[_Pair]", list(modules))


class _Block(nn.Module):
    """A gated residual block."""

    def __init__(self, width: int, kernel: tuple[int, int], right: bool, dropout: float) -> None:
        super().__init__()
        self.first = ShiftedConv2d(2 * width, width, kernel, right=right)
        self.second = ShiftedConv2d(2 * width, 2 * width, kernel, right=right, bias=False)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            # Blocks start near the identity, as in the original.
            self.second.weight.mul_(0.1)

    def forward(
        self, x: Tensor, y: Tensor, link: Tensor | None, bias: Tensor, cursor: Cursor | None
    ) -> Tensor:
        """Maps x and y = f(x) to the next x."""
        c = self.dropout(_elus(self.first(y, cursor, link)))
        return x + F.glu(self.second(c, cursor, bias), 1)


def _elus(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], 1))
