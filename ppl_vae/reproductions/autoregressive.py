"""Conditional PixelCNN and PixelCNN++ on MNIST after one epoch of the ELBO, on a CPU.

PixelCNN sees 10,000 binarised digits, PixelCNN++ 5,000 digits of 256 grey levels. NLL is the
importance-weighted bound by 8 draws over 300 test digits, in nats with its standard error over
them; next to it stand that of one histogram for each pixel (add-one smoothed) and the CPU seconds
that training and scoring took. MNIST is read from the folder `data`, or the one that PPL_VAE_DATA
names.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.data import MNIST
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import AutoregressiveLikelihood, PixelCNN, PixelCNNpp

__all__ = ["histogram_nll", "one_epoch", "run"]

_TEST = 300


def run(out: Path, seed: int) -> dict[str, Any]:
    """Trains both and returns the table."""
    root = os.environ.get("PPL_VAE_DATA", "data")
    made: list[tuple[str, int, int, Callable[..., AutoregressiveLikelihood]]] = [
        ("PixelCNN, binarised", 2, 10_000, lambda d, size: PixelCNN(d, size)),
        (
            "PixelCNN++, 256 grey levels", 256, 5_000,
            lambda d, size: PixelCNNpp(d, size, width=16, depth=1, scales=2),
        ),
    ]  # fmt: skip
    rows: list[list[Any]] = []
    pictures = []
    for k, (name, levels, count, make) in enumerate(made):
        pyro.set_rng_seed(seed)
        data = MNIST(root, limit=count)
        assert data.test is not None
        train, test = data.train, data.test[:_TEST]
        if levels == 2:
            train, test = torch.bernoulli(train), torch.bernoulli(test)
        net, encoder = make(8, data.size), MeanFieldNormal(data.size, 8)
        start = time.process_time()
        nll = one_epoch(net, encoder, train, test)
        seconds = time.process_time() - start
        base = histogram_nll(train, test, levels)
        bits = float(nll.mean()) / data.size.numel() / math.log(2)
        error = float(nll.std()) / math.sqrt(len(nll))
        rows.append([name, float(nll.mean()), error, bits, float(base.mean()), round(seconds)])
        pictures.append(out / f"samples-{k + 1}.png")
        with torch.no_grad():
            drawn = net(torch.randn(40, 8)).sample()
            plots.save(plots.samples(drawn), pictures[-1], f"Samples of {name}")
    columns = ["likelihood", "NLL", "error", "bits per pixel", "histograms", "CPU seconds"]
    return {"columns": columns, "rows": rows, "pictures": pictures}


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
