"""Conditional PixelCNN and PixelCNN++ on MNIST after one epoch of the ELBO, on a CPU.

PixelCNN sees binarised digits, PixelCNN++ digits of 256 grey levels: 2,500 and 1,000 of them at
`small`, 10,000 and 5,000 at `medium`. NLL is the importance-weighted bound by 8 draws over test
digits, in nats with its standard error over them; with it stands that of one histogram for each
pixel (add-one smoothed). MNIST is read from the folder `data`, or the one that PPL_VAE_DATA names.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyro
import torch
from torch import Tensor

from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import AutoregressiveLikelihood, PixelCNN, PixelCNNpp
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.measures import packed, unpacked
from ppl_vae.reproductions.common.pictures import images
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, value
from ppl_vae.reproductions.common.training import mnist
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = ["EXPERIMENT", "histogram_nll", "one_epoch"]

LIKELIHOODS: dict[str, tuple[Callable[..., AutoregressiveLikelihood], int]] = {
    "PixelCNN, binarised": (lambda d, size: PixelCNN(d, size), 2),
    "PixelCNN++, 256 grey levels": (
        lambda d, size: PixelCNNpp(d, size, width=16, depth=1, scales=2),
        256,
    ),
}
"""What is compared, with its number of grey levels."""


def measure(seed: int, likelihood: str, images: int, rows: int) -> Measures:
    """Trains one for an epoch, scores it and samples."""
    pyro.set_rng_seed(seed)
    data = mnist(images)
    assert data.test is not None
    train, test = data.train, data.test[:rows]
    make, levels = LIKELIHOODS[likelihood]
    if levels == 2:
        train, test = torch.bernoulli(train), torch.bernoulli(test)
    net, encoder = make(8, data.size), MeanFieldNormal(data.size, 8)
    nll = one_epoch(net, encoder, train, test)
    with torch.no_grad():
        drawn = net(torch.randn(10, 8)).sample()
    return {
        "NLL": float(nll.mean()),
        "NLL error": float(nll.std()) / math.sqrt(len(nll)),
        "bits per pixel": float(nll.mean()) / data.size.numel() / math.log(2),
        "histograms": float(histogram_nll(train, test, levels).mean()),
        "samples": packed(drawn),
    }


def cells(images: Mapping[str, int], rows: int) -> Sequence[Cell]:
    """One for each likelihood."""
    return [
        Cell(name, measure, {"likelihood": name, "images": count, "rows": rows})
        for name, count in images.items()
    ]


def claims(found: Found) -> Sequence[Claim]:
    """That either is far below independent pixels after an epoch."""

    def conditions(run: Mapping[str, Measures]) -> list[Condition]:
        return [
            Condition(
                f"NLL over histograms', {name}",
                value(run, name, "NLL") / value(run, name, "histograms"),
                at_most=0.8,
                nothing=1.0,
            )
            for name in LIKELIHOODS
        ]

    return [
        Claim(
            "a",
            "An epoch is enough for PixelCNN and PixelCNN++ to model what joins the pixels.",
            "the NLL is at most .8 of that of independent pixels with histograms of their own",
            by_seed(found, conditions),
        )
    ]


def draw(found: Found, folder: Path) -> Sequence[Path]:
    """Samples of both."""
    seed, run = next(iter(found.items()))
    there = [name for name in LIKELIHOODS if name in run]
    rows = [unpacked(run[name]["samples"]) for name in there]
    return [images(folder / "samples.png", rows, f"samples of: {'; '.join(there)} (seed {seed})")]


def one_epoch(
    net: AutoregressiveLikelihood, encoder: MeanFieldNormal, train: Tensor, test: Tensor
) -> Tensor:
    """NLL of each test image after one epoch of the ELBO in batches of 32, in nats.

    Args:
        net: p(x | z).
        encoder: q(z | x).
        train: images to train on, `(n, *size)`.
        test: images to score, `(m, *size)`, by 8 importance-weighted draws.

    Returns:
        Tensor `(m,)`.
    """
    prior = pyro.distributions.Normal(torch.zeros(net.dim), 1.0).to_event(1)
    optimiser = torch.optim.Adam([*net.parameters(), *encoder.parameters()], lr=4e-3)

    def log_weight(x: Tensor, draws: int) -> Tensor:
        q = encoder(x)
        z = q.rsample(torch.Size([draws]))
        weight: Tensor = net(z).log_prob(x) + prior.log_prob(z) - q.log_prob(z)
        return weight

    for x in train[torch.randperm(len(train))].split(32):
        optimiser.zero_grad()
        (-log_weight(x, 1).mean()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        bounds = [log_weight(x, 8).logsumexp(0) - math.log(8) for x in test.split(50)]
    return -torch.cat(bounds)


def histogram_nll(train: Tensor, test: Tensor, levels: int) -> Tensor:
    """NLL of each test image under independent pixels, each of its own histogram, in nats.

    Args:
        train: images of grey levels on [0, 1], `(n, *size)`.
        test: `(m, *size)`.
        levels: how many grey levels there are.
    """
    seen, held = ((part * (levels - 1)).round().long().flatten(1) for part in (train, test))
    counts = torch.ones(seen.shape[1], levels)
    counts.scatter_add_(1, seen.T, torch.ones(seen.T.shape))
    log_p = (counts / counts.sum(1, keepdim=True)).log()
    return -log_p.gather(1, held.T).sum(0)


EXPERIMENT = Reproduction(
    scales={
        "small": {
            "images": {"PixelCNN, binarised": 2500, "PixelCNN++, 256 grey levels": 1000},
            "rows": 100,
        },
        "medium": {
            "images": {"PixelCNN, binarised": 10_000, "PixelCNN++, 256 grey levels": 5000},
            "rows": 300,
        },
    },
    cells=cells,
    columns=("NLL", "NLL error", "bits per pixel", "histograms"),
    claims=claims,
    draw=draw,
)
