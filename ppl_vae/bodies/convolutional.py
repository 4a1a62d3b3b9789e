"""Convolutional bodies: from an image to a vector, or from a vector to an image."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ppl_vae.bodies.body import Activation, activation_module, check_widths

__all__ = ["DCGAN", "ResNet"]


class DCGAN(nn.Module):
    """Strided convolutions from an image to a vector, or their mirror image back.

    From an image: one 4x4 convolution of stride 2 for each entry of `channels`, a hidden layer,
    and an affine layer. To an image: the same layers in reverse, with transposed convolutions.
    The defaults are the networks of the InfoVAE paper for 28x28 digits.

    Args:
        inputs: event shape read: (channels, height, width), or any shape if `outputs` is that
            of an image.
        outputs: event shape returned.
        channels: widths of the convolutions, from the image's side. Each halves height and
            width, which must therefore be divisible by 2 ** len(channels).
        features: width of the hidden layer.
        activation: non-linearity after each layer but the last.
        batch_norm: whether convolutions are followed by batch normalisation, as in the original
            DCGAN. It makes the latent codes of a batch depend on each other.

    Shape:
        (n, *inputs) to (n, *outputs).

    Raises:
        ValueError: if neither shape is that of an image, or the image cannot be halved so often.

    References:
        Radford, Metz and Chintala (2016), Unsupervised representation learning with deep
        convolutional generative adversarial networks, arXiv:1511.06434.

    Example:
        >>> import torch
        >>> DCGAN((10,), (1, 28, 28))(torch.zeros(5, 10)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        channels: Sequence[int] = (64, 128),
        features: int = 1024,
        activation: Activation = "relu",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        encodes = len(inputs) == 3
        image = inputs if encodes else outputs
        inner = halved(self, inputs, outputs, channels)
        widths = [image[0], *channels]
        flat = widths[-1] * math.prod(inner)

        def block(i: int, o: int, conv: type[nn.Conv2d] | type[nn.ConvTranspose2d]) -> nn.Module:
            layers: list[nn.Module] = [conv(i, o, kernel_size=4, stride=2, padding=1)]
            if batch_norm:
                layers.append(nn.BatchNorm2d(o))
            return nn.Sequential(*layers, activation_module(activation))

        if encodes:
            self.layers = nn.Sequential(
                *(block(i, o, nn.Conv2d) for i, o in pairwise(widths)),
                nn.Flatten(),
                nn.Linear(flat, features),
                activation_module(activation),
                nn.Linear(features, math.prod(outputs)),
                nn.Unflatten(1, tuple(outputs)),
            )
        else:
            self.layers = nn.Sequential(
                nn.Flatten(),
                nn.Linear(math.prod(inputs), features),
                activation_module(activation),
                nn.Linear(features, flat),
                activation_module(activation),
                nn.Unflatten(1, (widths[-1], *inner)),
                *(block(i, o, nn.ConvTranspose2d) for i, o in pairwise(widths[:0:-1])),
                nn.ConvTranspose2d(widths[1], widths[0], kernel_size=4, stride=2, padding=1),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ResNet(nn.Module):
    """Residual convolutions from an image to a vector, or their mirror image back.

    Each entry of `channels` is a strided convolution that halves the image, followed by `blocks`
    residual blocks $h + f(h)$; the way back doubles it by nearest neighbours. There is no
    normalisation: the blocks start near the identity, so depth costs nothing at the start.

    Args:
        inputs: event shape read: (channels, height, width), or any shape if `outputs` is that
            of an image.
        outputs: event shape returned.
        channels: widths of the levels, from the image's side. Each halves height and width,
            which must therefore be divisible by 2 ** len(channels).
        blocks: number of residual blocks on each level.
        activation: non-linearity.

    Shape:
        (n, *inputs) to (n, *outputs).

    Raises:
        ValueError: if neither shape is that of an image, or the image cannot be halved so often.

    References:
        He, Zhang, Ren and Sun (2016), Identity mappings in deep residual networks,
        arXiv:1603.05027.
        Zhang, Dauphin and Ma (2019), Fixup initialization, arXiv:1901.09321.

    Example:
        >>> import torch
        >>> ResNet((1, 28, 28), (10,))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        channels: Sequence[int] = (32, 64),
        blocks: int = 2,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        encodes = len(inputs) == 3
        image = inputs if encodes else outputs
        inner = halved(self, inputs, outputs, channels)
        flat = channels[-1] * math.prod(inner)

        def level(width: int) -> list[nn.Module]:
            return [_Residual(width, activation) for _ in range(blocks)]

        layers: list[nn.Module] = []
        if encodes:
            for i, o in pairwise([image[0], *channels]):
                layers += [nn.Conv2d(i, o, 4, stride=2, padding=1), *level(o)]
            layers += [activation_module(activation), nn.Flatten()]
            layers += [nn.Linear(flat, math.prod(outputs)), nn.Unflatten(1, tuple(outputs))]
        else:
            layers += [nn.Flatten(), nn.Linear(math.prod(inputs), flat)]
            layers += [nn.Unflatten(1, (channels[-1], *inner))]
            for i, o in pairwise([*channels[::-1], channels[0]]):
                layers += [*level(i), nn.Upsample(scale_factor=2), nn.Conv2d(i, o, 3, padding=1)]
            layers += [activation_module(activation), nn.Conv2d(channels[0], image[0], 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _Residual(nn.Module):
    """h + f(h), with f(h) near 0 before training."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.branch = nn.Sequential(
            activation_module(activation),
            nn.Conv2d(width, width, 3, padding=1),
            activation_module(activation),
            last,
        )
        # Small and not zero: at zero the convolution before it would get no gradient at first.
        nn.init.normal_(last.weight, std=1e-3)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


def halved(
    body: nn.Module, inputs: Sequence[int], outputs: Sequence[int], channels: Sequence[int]
) -> tuple[int, int]:
    """Height and width of the image at one end, halved for each entry of channels.

    Raises:
        ValueError: if neither end is (channels, height, width), or the image cannot be halved so
            often.
    """
    name, times = type(body).__name__, len(channels)
    image = inputs if len(inputs) == 3 else outputs
    if len(image) != 3:
        raise ValueError(
            f"{name} goes between an image (channels, height, width) and a vector, not from "
            f"{tuple(inputs)} to {tuple(outputs)}: use MLP for other data"
        )
    check_widths(body, channels)
    if times < 1:
        raise ValueError(f"{name} needs at least one entry in channels")
    _, height, width = image
    if height % 2**times or width % 2**times:
        raise ValueError(
            f"{name} with {times} strided convolutions needs height and width divisible by "
            f"{2**times}, got {height}x{width}: give fewer channels or pad the images"
        )
    return height // 2**times, width // 2**times
