"""PixelCNN++ on colour: patches of photographs, and CIFAR-10 where a folder holds it.

RGB patches of 8x8 pixels, cut at random from scikit-learn's two photographs (the left three
quarters of each to train on, the rest held out; a fifth of the pixels in each direction), of 256
levels; a folder that PPL_VAE_DATA names with `cifar-10-batches-py` inside gives 32x32 images at
`medium`. PixelCNN++ (a discretised mixture of logistics, the channels of a pixel in turn) with a
code of d = 8 under the ELBO, batches of 32, Adam at 4e-3. Reported on held-out patches: the
importance-weighted bound by 8 draws, in bits a number, and that of one histogram for each pixel
and channel. The likelihood is exact: the probabilities of all images of two pixels, three channels
and four levels add up to 1.

Qualitative in the source, which shows samples of CIFAR-10 (InfoVAE, arXiv:1706.02262); Salimans et
al. (2017), PixelCNN++, arXiv:1701.05517.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import PixelCNNpp
from ppl_vae.likelihoods.pixels import LogisticPixels
from ppl_vae.reproductions.autoregressive import histogram_nll, one_epoch
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.measures import packed, unpacked
from ppl_vae.reproductions.common.pictures import images
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, value
from ppl_vae.reproductions.common.training import DATA
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = ["EXPERIMENT", "cifar", "patches"]

DIM, LEVELS = 8, 256


def patches(count: int, held: int, side: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Patches of the photographs in [0, 1], `(n, 3, side, side)`: to train on, and held out."""
    from sklearn.datasets import load_sample_images

    generator = np.random.default_rng(seed)
    parts: list[list[Tensor]] = [[], []]
    for photo in load_sample_images().images:
        small = torch.from_numpy(np.ascontiguousarray(photo[::5, ::5])).permute(2, 0, 1) / 255
        edge = 3 * small.shape[2] // 4
        for part, region, n in zip(
            parts, (small[..., :edge], small[..., edge:]), (count, held), strict=True
        ):
            high, wide = region.shape[1] - side + 1, region.shape[2] - side + 1
            for i, j in zip(
                generator.integers(high, size=n // 2), generator.integers(wide, size=n // 2),
                strict=True,
            ):  # fmt: skip
                part.append(region[:, i : i + side, j : j + side])
    return torch.stack(parts[0]), torch.stack(parts[1])


def cifar(count: int, held: int) -> tuple[Tensor, Tensor]:
    """Images of CIFAR-10 in [0, 1], `(n, 3, 32, 32)`: to train on, and held out.

    Raises:
        FileNotFoundError: where it is not in the folder `data`, or the one that PPL_VAE_DATA
            names.
    """
    root = os.environ.get(DATA, "data")
    if not Path(root, "cifar-10-batches-py").is_dir():
        raise FileNotFoundError(
            f"no CIFAR-10 in {root!r}: set {DATA} to the folder that holds cifar-10-batches-py"
        )
    from torchvision import datasets

    train, test = (
        torch.from_numpy(datasets.CIFAR10(root, train=train).data).permute(0, 3, 1, 2) / 255
        for train in (True, False)
    )
    return train[:count], test[:held]


def measure(seed: int, data: str, count: int, held: int, width: int) -> Measures:
    """Trains for an epoch, scores and samples."""
    pyro.set_rng_seed(seed)
    train, test = patches(count, held, seed=seed) if data == "patches" else cifar(count, held)
    size = train.shape[1:]
    net = PixelCNNpp(DIM, size, width=width, depth=1, scales=2)
    nll = one_epoch(net, MeanFieldNormal(size, DIM), train, test)
    numbers = size.numel() * math.log(2)
    with torch.no_grad():
        samples = net(torch.randn(10, DIM)).sample()
    return {
        "bits": float(nll.mean()) / numbers,
        "bits error": float(nll.std()) / len(nll) ** 0.5 / numbers,
        "histograms": float(histogram_nll(train, test, LEVELS).mean()) / numbers,
        "total off by": total(width),
        "samples": packed(samples),
        "data": packed(test[:10]),
    }


@torch.no_grad()
def total(width: int, levels: int = 4) -> float:
    """By how much the probabilities of all images of two pixels and three channels miss 1."""
    net = PixelCNNpp(2, (3, 1, 2), LogisticPixels(levels=levels), width, depth=1)
    grid = torch.linspace(0, 1, levels)
    x = torch.cartesian_prod(*[grid] * 6).reshape(-1, 3, 1, 2)
    return abs(float(net(torch.zeros(len(x), 2)).log_prob(x).double().exp().sum()) - 1)


def cells(data: str, count: int, held: int, width: int) -> Sequence[Cell]:
    """One: the data at hand."""
    return [Cell(data, measure, {"data": data, "count": count, "held": held, "width": width})]


def claims(found: Found) -> Sequence[Claim]:
    """That the likelihood is exact, and of use."""

    def measured(run: Mapping[str, Measures], name: str) -> float:
        there = [value({"x": measures}, "x", name) for measures in run.values()]
        return there[0] if there else float("nan")

    def exact(run: Mapping[str, Measures]) -> list[Condition]:
        return [Condition("total less 1", measured(run, "total off by"), at_most=1e-5)]

    def learns(run: Mapping[str, Measures]) -> list[Condition]:
        ratio = measured(run, "bits") / measured(run, "histograms")
        return [Condition("bits over histograms'", ratio, at_most=0.8, nothing=1.0)]

    return [
        Claim(
            "a",
            "PixelCNN++'s likelihood of colour images is exact.",
            "the probabilities of all 4,096 images of two pixels, three channels and four levels "
            "add up to 1 within 1e-5",
            by_seed(found, exact),
            "CIFAR",
            "exact (derived)",
        ),
        Claim(
            "b",
            "An epoch on colour patches models what joins pixels and channels.",
            "bits a number at most .8 of those of a histogram for each pixel and channel",
            by_seed(found, learns),
            "CIFAR",
            "samples and no figure",
        ),
    ]


def draw(found: Found, folder: Path) -> Sequence[Path]:
    """Held-out images, and samples below."""
    seed, run = next(iter(found.items()))
    name, one = next(iter(run.items()))
    rows = [unpacked(one["data"]), unpacked(one["samples"])]
    return [images(folder / "samples.png", rows, f"{name}, then samples (seed {seed})")]


EXPERIMENT = Reproduction(
    scales={
        "small": {"data": "patches", "count": 2000, "held": 200, "width": 16},
        "medium": {"data": "CIFAR-10", "count": 50_000, "held": 500, "width": 32},
    },
    cells=cells,
    columns=("bits", "bits error", "histograms", "total off by"),
    claims=claims,
    draw=draw,
)
