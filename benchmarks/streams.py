"""The throughput of a training on streamed rows as a ratio to that on rows in memory.

    python benchmarks/streams.py [--rows 20000] [--rounds 7] [--batch 128] [--sizes 784 400 10]

One epoch of the same pair on the same rows, held in memory, as a torch data set read item by item,
by a `DataLoader` with two workers, by an iterable, and from a `.npy` file that stays on disk. All
take their epochs in turn, in one process and on one thread; ratios are of wall time within a
round: their median and quartiles. The first pass, for what must be known of the rows, is timed by
itself.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ppl_vae import SVI, VAE, Dataset
from ppl_vae.bodies import MLP
from ppl_vae.data.mapped import Mapped
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.objectives import BetaVAE
from ppl_vae.priors import StandardNormal


class Lines(IterableDataset[Any]):
    """Rows one after the other."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.rows)


def stepping(sizes: tuple[int, int, int]) -> Any:
    """The steps of a VAE."""
    size, hidden, dim = sizes
    shape, body = torch.Size([size]), partial(MLP, hidden=(hidden,))
    vae = VAE(StandardNormal(dim), Bernoulli(dim, shape, body), MeanFieldNormal(shape, dim, body))
    return SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), BetaVAE()).step


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--sizes", type=int, nargs=3, default=(784, 400, 10))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.rand(options.rows, options.sizes[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.npy")
        np.save(path, x.numpy())
        sources = {
            "in memory": x,
            "data set, by item": TensorDataset(x),
            "DataLoader, 2 workers": DataLoader(
                TensorDataset(x), options.batch, shuffle=True, num_workers=2
            ),
            "iterable": Lines(x),
            "file on disk": Mapped(path, torch.arange(len(x))),
        }
        data, first = {}, {}
        for name, source in sources.items():
            start = time.perf_counter()
            data[name] = Dataset(source)
            first[name] = time.perf_counter() - start
        step = stepping(tuple(options.sizes))
        for _ in range(20):  # past the eager steps before a recording
            step(x[: options.batch])
        times: dict[str, list[float]] = {name: [] for name in sources}
        for _ in range(options.rounds):
            for name, rows in data.items():
                start = time.perf_counter()
                for (batch,) in rows.batches("train").batches(options.batch):
                    step(batch)
                times[name].append(time.perf_counter() - start)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; Python {platform.python_version()}, PyTorch "
        f"{torch.__version__}, Pyro {pyro.__version__}"
    )
    print(f"{options.rows} rows, sizes {tuple(options.sizes)}, batch {options.batch}, one thread")
    medians = {}
    for name, found in times.items():
        ratios = [base / t for t, base in zip(found, times["in memory"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        medians[name] = middle
        rate = options.rows / statistics.median(found)
        print(
            f"{name:24} {rate:9.0f} rows/s  throughput {middle:5.2f}  ({low:.2f} to {high:.2f}), "
            f"first pass {first[name]:6.2f} s"
        )
    return medians


if __name__ == "__main__":
    main()
