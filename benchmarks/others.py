"""A WAE-MMD's epoch against pythae's, and a batch's MMD against geomloss's.

    pip install 'ppl-vae[bench]'
    python benchmarks/others.py [--rows 5000] [--epochs 8] [--write docs/performance.md]

The epoch is that of the same auto-encoder, one hidden layer each way and a sigmoid at the end, on
the same rows in batches of 100, with squared error, Adam, and the MMD that pythae has: over points
and prior draws, with seven inverse multiquadrics (`MMD(MultiScale())`). `ppl_vae.fit` and the
trainer of pythae take epochs in turn, and the ratio is within a turn; so does an ELBO of that
network by hand, which a training hardly gets below. The MMD is the V-statistic with a Gaussian
kernel, forward and backward, of `SamplesLoss("gaussian")`. All in one process, on one thread. A
library that is not installed is left out, in a line.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyro
import torch
from steps import by_hand, machine, write
from torch import Tensor

from ppl_vae import VAE, fit
from ppl_vae.bodies import MLP
from ppl_vae.guides import Deterministic
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.objectives import MMD, RBF, WAE, AggregatePosterior, MultiScale
from ppl_vae.priors import StandardNormal

DIM, BATCH, WEIGHT = 10, 100, 10.0


def pythae_epochs(x: Tensor, hidden: int, folder: str) -> Callable[[], None]:
    """An epoch of pythae's WAE-MMD."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import WAE_MMD, WAE_MMD_Config
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    size = x.shape[1]

    class Encode(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = MLP((size,), (DIM,), hidden=(hidden,))

        def forward(self, x: Tensor) -> Any:
            return ModelOutput(embedding=self.net(x))

    class Decode(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = MLP((DIM,), (size,), hidden=(hidden,))

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))

    config = WAE_MMD_Config(input_dim=(size,), latent_dim=DIM, reg_weight=WEIGHT)
    settings = BaseTrainerConfig(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        no_cuda=True,
    )
    model = WAE_MMD(config, Encode(), Decode())
    z, y = torch.randn(2, 50, DIM)
    *_, theirs = model.loss_function(x[:50], x[:50], z, y)
    ours = mmd()(AggregatePosterior.of(z, y))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    rows = BaseDataset(x, torch.zeros(len(x)))
    trainer = BaseTrainer(model, rows, training_config=settings)
    trainer.prepare_training()
    number = iter(range(1, 1_000_000))
    return lambda: trainer.train_step(next(number))


def mmd() -> MMD:
    return MMD(MultiScale(), noise="sampled", prior="sampled")


def epochs(x: Tensor, hidden: int, count: int) -> list[tuple[float, ...]]:
    """CPU and wall seconds of an epoch of ours, of pythae's after it, and of one by hand."""
    pyro.clear_param_store()
    size = x.shape[1]
    shape, body = torch.Size([size]), partial(MLP, hidden=(hidden,))
    bare = by_hand(size, hidden, DIM)
    vae = VAE(StandardNormal(DIM), Bernoulli(DIM, shape, body), Deterministic(shape, DIM, body))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        other = pythae_epochs(x, hidden, folder)
        start = time.process_time(), time.perf_counter()

        def turn(_: object) -> None:
            nonlocal start
            middle = time.process_time(), time.perf_counter()
            other()
            end = time.process_time(), time.perf_counter()
            ours = [b - a for a, b in zip(start, middle, strict=True)]
            theirs = [b - a for a, b in zip(middle, end, strict=True)]
            for batch in x.split(BATCH):
                bare(batch)
            found.append((*ours, *theirs, time.process_time() - end[0]))
            start = time.process_time(), time.perf_counter()

        objective = WAE(mmd(), scale=WEIGHT)
        optimizer = pyro.optim.Adam({"lr": 1e-3})
        fit(
            vae.model, vae.guide, x, objective, optimizer,
            epochs=count, batch_size=BATCH, callbacks=[turn], device="cpu", progress=False,
        )  # fmt: skip
    return found


def against_pythae(sizes: list[tuple[int, int]], rows: int, count: int) -> list[str]:
    if find_spec("pythae") is None:
        return ["pythae is not installed: `pip install 'ppl-vae[bench]'`."]
    lines = [
        "| network, epochs | ours, s of CPU | by hand / ours | pythae / ours, CPU | wall |",
        "|---|---|---|---|---|",
    ]
    for size, hidden in sizes:
        first, *rest = epochs(torch.rand(rows, size), hidden, count)
        for name, found in (("the first", [first]), (f"{len(rest)} more", rest)):
            ours = statistics.median(row[0] for row in found)
            cells = [
                spread([row[k] / row[j] for row in found]) for j, k in ((0, 4), (0, 2), (1, 3))
            ]
            network = f"{size} - {hidden} - {DIM}"
            lines.append(f"| {network}, {name} | {ours:.2f} | {' | '.join(cells)} |")
    return lines


def spread(ratios: list[float]) -> str:
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def against_geomloss(sizes: list[int], rounds: int) -> list[str]:
    if find_spec("geomloss") is None:
        return ["geomloss is not installed: `pip install 'ppl-vae[bench]'`."]
    from geomloss import SamplesLoss

    theirs = SamplesLoss("gaussian", blur=DIM**0.5, backend="tensorized")
    ours = MMD(RBF(), noise="sampled", prior="sampled", statistic="V")
    lines = ["| n | ours, ms of CPU | geomloss / ours | quartiles |", "|---|---|---|---|"]
    for n in sizes:
        z, y = torch.randn(2, n, DIM)
        z.requires_grad_()

        def both(z: Tensor = z, y: Tensor = y) -> list[Callable[[], Tensor]]:
            return [
                lambda: ours(AggregatePosterior.of(z, y)),
                lambda: 2 * theirs(z, y),  # it is half of the squared MMD
            ]

        torch.testing.assert_close(*[value() for value in both()], rtol=1e-3, atol=1e-6)
        times = [[seconds(value, z) for value in both()] for _ in range(rounds + 1)][1:]
        low, middle, high = statistics.quantiles([b / a for a, b in times], n=4)
        ms = 1e3 * statistics.median(a for a, _ in times)
        lines.append(f"| {n:,} | {ms:.1f} | {middle:.2f} | {low:.2f} to {high:.2f} |")
    return lines


def seconds(value: Callable[[], Tensor], z: Tensor) -> float:
    start = time.process_time()
    torch.autograd.grad(value(), z)
    return time.process_time() - start


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 4000])
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [
        f"Epochs of {options.rows:,} rows; MMDs of n codes and n draws of {DIM} dimensions. "
        f"{machine()}",
        "",
        *against_pythae([(784, 512), (64, 50)], options.rows, options.epochs),
        "",
        *against_geomloss(options.sizes, options.rounds),
    ]
    table = "\n".join(lines)
    print(table)
    write(options.write, "others", table)


if __name__ == "__main__":
    main()
