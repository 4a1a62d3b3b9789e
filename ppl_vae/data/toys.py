"""Points of which everything is known."""

from math import cos, isfinite, pi, sin

import torch

from ppl_vae.arguments import above_zero, checked_seed, whole
from ppl_vae.data.dataset import Dataset

__all__ = ["GaussianMixture", "TwoPoints"]


class GaussianMixture(Dataset):
    r"""Points in the plane from Gaussians of one standard deviation, evenly set on a circle.

    Args:
        components: number of Gaussians, each a class.
        radius: of the circle.
        sd: standard deviation of each Gaussian.
        n: number of training points; a fifth as many are held out.
        seed: of the draws.
    """

    def __init__(
        self,
        components: int = 8,
        radius: float = 2.0,
        sd: float = 0.2,
        n: int = 2000,
        seed: int = 0,
    ) -> None:
        whole(self, components=components)
        whole(self, 5, n=n)
        above_zero(self, sd=sd)
        if not isfinite(radius):
            raise ValueError(f"GaussianMixture: radius must be finite, got {radius:g}")
        generator = torch.Generator().manual_seed(checked_seed(seed))
        angles = [2 * pi * k / components for k in range(components)]
        means = torch.tensor([(radius * cos(a), radius * sin(a)) for a in angles])
        labels = torch.randint(components, (n + n // 5,), generator=generator)
        points = means[labels] + sd * torch.randn(len(labels), 2, generator=generator)
        super().__init__(
            points[:n],
            points[n:],
            labels[:n],
            labels[n:],
            name="gaussian mixture",
            classes=[str(k) for k in range(components)],
        )


class TwoPoints(Dataset):
    r"""The data set {-1, 1}, each value half of the rows: one number a row.

    Args:
        n: number of training rows; as many are held out.
    """

    def __init__(self, n: int = 512) -> None:
        whole(self, 2, n=n)
        labels = torch.arange(n) % 2
        points = (2.0 * labels - 1)[:, None]
        super().__init__(points, points, labels, labels, name="two points", classes=["-1", "1"])
