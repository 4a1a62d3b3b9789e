"""The gated PixelCNN, conditioned on a latent code."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ppl_vae.arguments import whole
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body
from ppl_vae.likelihoods.autoregressive import AutoregressiveLikelihood
from ppl_vae.likelihoods.condition import Condition, Maps
from ppl_vae.likelihoods.pixels import BinaryPixels, Pixels
from ppl_vae.likelihoods.shifted import Cursor, ShiftedConv2d

__all__ = ["PixelCNN"]

_PIXELS = BinaryPixels()


class PixelCNN(AutoregressiveLikelihood):
    r"""Gated PixelCNN: autoregressive over pixels, every layer conditioned on z.

    Each layer has a vertical stack, which sees the rows above, and a horizontal stack, which sees
    the pixels to the left and, through a 1x1 convolution, the vertical stack. Together they see
    every earlier pixel in reach, without the blind spot of masked square kernels:

    $$v' &= \tanh(a_1) \odot \sigma(a_2), & a &= W_v * v + V_v z \\
      h' &= h + W_o * \big( \tanh(b_1) \odot \sigma(b_2) \big), & b &= W_h * h + U * a + V_h z$$

    Where the decoder is this flexible, training may do without z for long: what decides it is
    measured by `ppl-vae reproduce information_preference`.

    Args:
        dim: dimension d of z.
        size: event shape of x: (height, width) or (channels, height, width).
        pixels: the distribution of one pixel: `BinaryPixels()`, which is the default,
            `CategoricalPixels(levels)` or `LogisticPixels(components, levels)`.
        width: channels of both stacks.
        depth: number of layers, the first one included.
        kernel: side of the kernels after the first layer, odd, at least 3.
        first: side of the first layer's kernel, odd, at least 3.
        head: channels of the two 1x1 layers at the end.
        maps: z is also turned into that many images of x's height and width, which enter the
            first layer, so that it can say where things are; 0 leaves z to the biases, and then
            it takes thousands of steps until the code is used at all.
        body: factory of the network that makes the maps.

    Raises:
        ValueError: if a kernel is even or below 3, there is no layer, or the size is not that of
            an image.

    References:
        van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves and Kavukcuoglu (2016), Conditional
        image generation with PixelCNN decoders, arXiv:1606.05328.

    Example:
        >>> p = PixelCNN(10, (1, 8, 8))(torch.zeros(5, 10))
        >>> p.batch_shape, p.event_shape, p.sample().shape
        (torch.Size([5]), torch.Size([1, 8, 8]), torch.Size([5, 1, 8, 8]))
    """

    def __init__(
        self,
        dim: int,
        size: Sequence[int],
        pixels: Pixels = _PIXELS,
        width: int = 32,
        depth: int = 6,
        kernel: int = 5,
        first: int = 7,
        head: int = 64,
        maps: int = 4,
        body: Body = MLP,
    ) -> None:
        whole(self, dim=dim, width=width, depth=depth, head=head)
        whole(self, 0, maps=maps)
        whole(self, 3, kernel=kernel, first=first)
        for name, k in (("kernel", kernel), ("first", first)):
            if k % 2 == 0:
                raise ValueError(f"{name} must be odd and at least 3, got {k}")
        super().__init__(dim, size, Condition(dim, depth * 4 * width, maps, size, body), pixels)
        n = self.channels + 1
        self.maps = Maps(maps, 2 * width) if maps else None
        self.layers = nn.ModuleList(
            _Layer(
                n if i == 0 else width,
                width,
                # The image is shifted already, so the first kernel may end at its own row.
                (first // 2, first) if i == 0 else (kernel // 2 + 1, kernel),
                first // 2 if i == 0 else kernel // 2 + 1,
            )
            for i in range(depth)
        )
        self.head = nn.ModuleList(
            [ShiftedConv2d(width, head), ShiftedConv2d(head, pixels.outputs(self.channels))]
        )

    def vertical(
        self, x: Tensor, condition: tuple[Tensor, Tensor | None], cursor: Cursor | None = None
    ) -> list[Tensor | None]:
        biases, maps = condition
        per_layer = biases[..., None, None].chunk(2 * len(self.layers), 1)
        links: list[Tensor | None] = []
        for i, layer in enumerate(cast("list[_Layer]", list(self.layers))):
            for_v, for_h = per_layer[2 * i : 2 * i + 2]
            if i == 0 and self.maps is not None and maps is not None:
                to_v, to_h = self.maps(maps, cursor)
                for_v, for_h = for_v + to_v, for_h + to_h
            a = layer.vertical(x, cursor, for_v)
            links.append(layer.link(a, cursor, for_h))
            if i + 1 < len(self.layers):
                x = _gate(a)
        return links

    def horizontal(
        self, x: Tensor, links: Sequence[Tensor | None], cursor: Cursor | None = None
    ) -> Tensor:
        layers, (hidden, last) = self._across(cursor)
        before = None
        for (across, out), link in zip(layers, links, strict=True):
            x = before = out(_gate(across(x, cursor, link)), cursor, before)
        return last(hidden(x.relu(), cursor).relu_(), cursor)

    def _across(self, cursor: Cursor | None) -> Any:
        """Each layer's two convolutions along a row, and the head's.

        A drawing remembers them: to find them among a module's modules takes a pixel longer than
        its products.
        """
        found = None if cursor is None else cursor.memory.get(self)
        if found is None:
            layers = cast("list[_Layer]", list(self.layers))
            found = tuple((layer.horizontal, layer.out) for layer in layers), (*self.head,)
            if cursor is not None:
                cursor.memory[self] = found
        return found


class _Layer(nn.Module):
    """The convolutions of one layer; their biases come from z."""

    def __init__(self, inputs: int, width: int, kernel: tuple[int, int], left: int) -> None:
        super().__init__()
        self.vertical = ShiftedConv2d(inputs, 2 * width, kernel, bias=False)
        self.horizontal = ShiftedConv2d(inputs, 2 * width, (1, left), right=True, bias=False)
        self.link = ShiftedConv2d(2 * width, 2 * width, bias=False)
        self.out = ShiftedConv2d(width, width)


def _gate(x: Tensor) -> Tensor:
    if x.dim() > 2:
        gated: Tensor = _Gate.apply(x)[0]
        return gated
    a, b = x.chunk(2, 1)  # of one pixel, where a call costs more than its numbers
    return torch.tanh(a).mul_(torch.sigmoid(b))


class _Gate(torch.autograd.Function):
    """tanh(a) sigma(b) and its factors, with a backward pass of few tensors.

    That reads the factors alone, which are outputs so that it can be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = x.chunk(2, 1)
        # tanh a = 2 sigma(2 a) - 1, which PyTorch computes in half the time on CPUs.
        tanh = torch.mul(a, 2).sigmoid_().mul_(2).sub_(1)
        sigma = torch.sigmoid(b)
        return tanh * sigma, tanh, sigma

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor:
        tanh, sigma = ctx.saved_tensors
        grad, by_tanh, by_sigma = grads
        grad = torch.zeros_like(sigma) if grad is None else grad
        by_a = torch.ops.aten.tanh_backward(grad * sigma, tanh)
        by_b = torch.ops.aten.sigmoid_backward(grad, sigma).mul_(tanh)
        if by_tanh is not None:
            by_a = by_a + torch.ops.aten.tanh_backward(by_tanh, tanh)
        if by_sigma is not None:
            by_b = by_b + torch.ops.aten.sigmoid_backward(by_sigma, sigma)
        return torch.cat([by_a, by_b], 1)
