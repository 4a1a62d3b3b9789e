"""Images that factors determine, for measures of disentanglement and of latent geometry."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ppl_vae.arguments import checked_seed, whole
from ppl_vae.data.dataset import Dataset

__all__ = ["FactorData", "FadingSquares", "Sprites"]


class FactorData(ABC):
    """Images that discrete factors, independent and uniform, determine.

    Attributes:
        names: of the factors.
        levels: how many values each takes.
    """

    names: tuple[str, ...]
    levels: tuple[int, ...]

    @property
    @abstractmethod
    def size(self) -> torch.Size:
        """The shape of one image."""

    @abstractmethod
    def render(self, factors: Tensor) -> Tensor:
        """Images `(n, *size)` in [0, 1] of factor indices `(n, K)`."""

    def sample_factors(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Factor indices `(n, K)`, uniform."""
        return torch.stack(
            [torch.randint(levels, (n,), generator=generator) for levels in self.levels], 1
        )

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Images `(n, *size)` and their factor indices `(n, K)`."""
        factors = self.sample_factors(n, generator)
        return self.render(factors), factors

    def _check(self, factors: Tensor) -> None:
        limits = torch.tensor(self.levels, device=factors.device)
        if factors.dim() != 2 or factors.shape[1] != len(limits):
            raise ValueError(
                f"factors of shape {tuple(factors.shape)}: (n, {len(limits)}) are needed, in the "
                f"order {', '.join(self.names)}"
            )
        if bool(((factors < 0) | (factors >= limits)).any()):
            raise ValueError(f"factor indices must lie below the levels {self.levels}")


class Sprites(Dataset, FactorData):
    """A white square, ellipse or heart on black, in the manner of dSprites.

    Factors: shape (3), scale, rotation, x and y. Rotations go once around, so that the square's
    repeat four times and the ellipse's twice, as in the original. Edges are smoothed over a pixel.
    Rows are images at random factors, their classes the shapes; `render` and `sample` make others.

    Args:
        size: pixels each way.
        scales: levels of scale, from .5 to 1 of the largest.
        rotations: levels of rotation.
        positions: levels of x and of y.
        n: number of training rows; a fifth as many are held out.
        seed: of the rows' factors.

    References:
        Matthey, Higgins, Hassabis and Lerchner (2017), dSprites: disentanglement testing sprites
        dataset.
    """

    names = ("shape", "scale", "rotation", "x", "y")

    def __init__(
        self,
        size: int = 64,
        scales: int = 6,
        rotations: int = 40,
        positions: int = 32,
        n: int = 2000,
        seed: int = 0,
    ) -> None:
        whole(self, size=size, scales=scales, rotations=rotations, positions=positions)
        self.pixels = size
        self.levels = (3, scales, rotations, positions, positions)
        images, factors = _rows(self, n, seed)
        shapes = factors[:, 0]
        super().__init__(
            images[:n],
            images[n:],
            shapes[:n],
            shapes[n:],
            name="sprites",
            classes=["square", "ellipse", "heart"],
        )

    def render(self, factors: Tensor, block: int = 256) -> Tensor:
        """Images `(n, 1, size, size)` in [0, 1] of factor indices `(n, 5)`."""
        self._check(factors)
        return torch.cat([self._render(rows) for rows in factors.split(block)])

    def _render(self, factors: Tensor) -> Tensor:
        n, pixels = len(factors), self.pixels
        steps = [max(levels - 1, 1) for levels in self.levels]
        shape, scale, rotation, x, y = factors.T
        radius = (0.15 * (0.5 + 0.5 * scale / steps[1]))[:, None]
        angle = (2 * math.pi * rotation / self.levels[2])[:, None, None]
        # Positions keep every sprite inside, at any rotation: none reaches beyond 1.25 radii.
        centre = torch.stack([x / steps[3], y / steps[4]], 1) * 0.56 + 0.22
        # Only a patch around the sprite is evaluated, three times finer than the pixels.
        half = min(math.ceil(0.19 * pixels) + 1, pixels // 2)
        origin = ((centre * pixels).long() - half).clamp(0, pixels - 2 * half)
        local = torch.arange(6 * half, device=factors.device)
        fine = (origin[:, :, None] + (local + 0.5) / 3) / pixels - centre[:, :, None]
        dx, dy = fine[:, 0, None, :] / radius[..., None], fine[:, 1, :, None] / radius[..., None]
        u, v = angle.cos() * dx + angle.sin() * dy, angle.cos() * dy - angle.sin() * dx
        inside = torch.zeros_like(u)
        for kind, contains in enumerate((_in_square, _in_ellipse, _in_heart)):
            chosen = shape == kind
            inside[chosen] = contains(u[chosen], v[chosen]).to(u)
        patch = torch.nn.functional.avg_pool2d(inside[:, None], 3)[:, 0]
        images = patch.new_zeros(n, 1, pixels, pixels)
        across = origin[:, 0, None, None] + torch.arange(2 * half, device=factors.device)
        down = origin[:, 1, None, None] + torch.arange(2 * half, device=factors.device)[:, None]
        rows = torch.arange(n, device=factors.device)[:, None, None]
        images[rows, 0, down, across] = patch
        return images


def _in_square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) < 0.85


def _in_ellipse(u: Tensor, v: Tensor) -> Tensor:
    return u.square() + (v / 0.6).square() < 1


def _in_heart(u: Tensor, v: Tensor) -> Tensor:
    u2, w = (1.2 * u).square(), 0.1 - 1.2 * v
    ball = u2 + w.square() - 1
    return ball * ball.square() < u2 * w * w.square()


class FadingSquares(Dataset, FactorData):
    """A centred grey square on black whose brightness is the one factor.

    The data are one-dimensional: what an encoder does with a latent space of two is the question
    of the reference. Rows are images of random brightness.

    Args:
        size: pixels each way.
        side: of the square, in pixels.
        levels: of brightness, from 0 to 1.
        n: number of training rows; a fifth as many are held out.
        seed: of the rows' brightness.

    References:
        Rubenstein, Schölkopf and Tolstikhin (2018), On the latent space of Wasserstein
        auto-encoders, arXiv:1802.03761.
    """

    names = ("brightness",)

    def __init__(
        self, size: int = 32, side: int = 16, levels: int = 256, n: int = 2000, seed: int = 0
    ) -> None:
        whole(self, size=size, side=side)
        whole(self, 2, levels=levels)
        if side > size:
            raise ValueError(f"FadingSquares: side is {side}, above the size, {size}")
        self.pixels, self.side = size, side
        self.levels = (levels,)
        images, _ = _rows(self, n, seed)
        super().__init__(images[:n], images[n:], name="fading squares")

    def render(self, factors: Tensor) -> Tensor:
        """Images `(n, 1, size, size)` in [0, 1] of brightness indices `(n, 1)`."""
        self._check(factors)
        return self.fade(factors[:, 0] / (self.levels[0] - 1))

    def fade(self, brightness: Tensor) -> Tensor:
        """Images of any brightness `(n,)` in [0, 1]."""
        start = (self.pixels - self.side) // 2
        images = brightness.new_zeros(len(brightness), 1, self.pixels, self.pixels)
        inside = slice(start, start + self.side)
        images[:, 0, inside, inside] = brightness[:, None, None]
        return images

    def path(self) -> Tensor:
        """All images in order of brightness, for `path_length`."""
        return self.render(torch.arange(self.levels[0])[:, None])


def _rows(data: FactorData, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n images to train on and a fifth as many more, with their factors."""
    whole(data, 5, n=n)
    return data.sample(n + n // 5, torch.Generator().manual_seed(checked_seed(seed)))
