"""What drawing and training a PixelCNN costs, as ratios to the naive sampler and to convolutions.

    python benchmarks/pixelcnn.py [--images 1 16] [--rounds 3] [--write docs/performance.md]
    python benchmarks/pixelcnn.py --network PixelCNNpp --images 64

Both samplers draw the same images from the same noise, in turn, on one thread; of the naive one,
which runs the network on the whole image for each pixel, some pixels are timed and the rest
reckoned, as each costs the same. A training step, the log-likelihood and its gradients, is held
against the convolutions that it calls, of the same shapes, forward and backward, both per
floating-point operation.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from steps import machine, write
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ppl_vae.likelihoods import AutoregressiveLikelihood, PixelCNN, PixelCNNpp

NETWORKS = {"PixelCNN": PixelCNN, "PixelCNNpp": PixelCNNpp}


def seconds(act: Callable[[], object]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def sampling(net: AutoregressiveLikelihood, images: int, rounds: int, pixels: int) -> str:
    """A row of the table: draws of so many images."""
    z, noise = torch.randn(images, 10), net.noise(images)
    height, width = noise.shape[-2:]
    some = torch.randn(images, net.channels, height, width)

    @torch.no_grad()
    def naively() -> None:
        for j in range(pixels):
            outputs = net.outputs_at(some, z)
            net.pixels.draw(outputs[:, :, 0, j], noise[:, :, 0, j])

    net.eval()
    net.draw(z, noise)
    quick, ratios = [], []
    for _ in range(rounds):
        quick.append(seconds(lambda: net.draw(z, noise)))
        ratios.append(seconds(naively) * height * width / pixels / quick[-1])
    return row(f"drawing {images} by the naive sampler, of drawing them", quick, ratios)


def training(net: AutoregressiveLikelihood, images: int, rounds: int) -> str:
    """A row of the table: steps of so many images."""
    x, z = torch.rand(images, *net.size).round(), torch.randn(images, 10)
    called: list[tuple[Tensor, Tensor]] = []
    convolve = F.conv2d

    def spy(x: Tensor, weight: Tensor, *rest: object) -> Tensor:
        called.append((torch.randn_like(x).requires_grad_(), torch.randn_like(weight)))
        return convolve(x, weight, *rest)  # type: ignore[arg-type]

    def step() -> None:
        net.zero_grad()
        net(z).log_prob(x).sum().backward()

    def plain() -> None:
        for x, weight in called:
            y = convolve(x, weight.requires_grad_())
            torch.autograd.grad(y, [x, weight], torch.ones_like(y))

    net.train()
    with patch.object(F, "conv2d", spy):
        step()
    plain()
    counts = []
    for act in (step, plain):
        with FlopCounterMode(display=False) as counter:
            act()
        counts.append(counter.get_total_flops())
    ours, ratios = [], []
    for _ in range(rounds):
        ours.append(seconds(step))
        ratios.append(ours[-1] / counts[0] / (seconds(plain) / counts[1]))
    return row(f"a step of {images}, of its convolutions per operation", ours, ratios)


def row(name: str, times: list[float], ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"| {name} | {statistics.median(times):.3f} | {middle:.3g} | {low:.3g} to {high:.3g} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(NETWORKS), default="PixelCNN")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 16], help="drawn at once")
    parser.add_argument("--side", type=int, default=28, help="height and width, in pixels")
    parser.add_argument(
        "--pixels", type=int, default=20, help="of the naive sampler that are timed"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = NETWORKS[options.network](10, (options.side, options.side))
    lines = [
        f"{options.network}, {options.side} x {options.side}, one thread; {options.rounds} "
        f"rounds. {machine()}",
        "",
        "| what, as a ratio | s of CPU | ratio | quartiles |",
        "|---|---|---|---|",
    ]
    lines += [sampling(net, n, options.rounds, options.pixels) for n in options.images]
    lines.append(training(net, 16, options.rounds))
    table = "\n".join(lines)
    print(table)
    write(options.write, "pixelcnn", table)


if __name__ == "__main__":
    main()
