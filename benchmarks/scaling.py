"""Time and memory of a divergence, forward and backward, against the rows of a batch.

    python benchmarks/scaling.py [--sizes 256 1024 4096 16384] [--dim 32]
                               [--write docs/performance.md]

Gaussian codes against a standard normal. Each divergence has a process of its own, on one thread,
which takes the sizes in order; memory is what its peak stands above what it was before any, and
time, of the process, is also given as a ratio to a bare matrix product, exponential and sum over
n x n pairs, forward and backward, block by block. With `--write` the table and the picture of the
page, `pictures/scaling.png`, are replaced.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyro.distributions as dist
import torch
from full_mmd import MIB, peak
from steps import machine, write
from torch import Tensor

from ppl_vae.objectives import (
    MMD,
    AggregateKL,
    AggregatePosterior,
    CramerWold,
    Divergence,
    Energy,
    MultiScale,
    SlicedWasserstein,
    Stein,
)
from ppl_vae.objectives.divergences.blocks import by_blocks

DIVERGENCES: dict[str, Callable[[], Divergence]] = {
    "MMD()": MMD,
    "MMD(pairs='all')": lambda: MMD(pairs="all"),
    "MMD(MultiScale()), sampled": lambda: MMD(MultiScale(), noise="sampled", prior="sampled"),
    "Energy()": Energy,
    "CramerWold()": CramerWold,
    "AggregateKL()": AggregateKL,
    "Stein()": Stein,
    "SlicedWasserstein()": SlicedWasserstein,
}


def bare(z: Tensor) -> Tensor:
    def block(rows: Tensor, met: Tensor) -> Tensor:
        return torch.exp(rows @ met.T / 100).sum(1)

    return by_blocks(block, [z], len(z), [z]).sum()


def seconds(value: Callable[[], Tensor], given: list[Tensor]) -> float:
    start = time.process_time()
    torch.autograd.grad(value(), given)
    return time.process_time() - start


def measure(name: str, sizes: list[int], dim: int) -> list[tuple[float, float, float]]:
    """CPU seconds, the ratio to the bare product's, and MiB, by size."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    divergence, found = DIVERGENCES[name](), []
    prior = dist.Normal(torch.zeros(dim), 1.0).to_event(1)

    def codes(n: int) -> list[Tensor]:
        return [torch.randn(n, dim).requires_grad_(), torch.rand(n, dim).requires_grad_()]

    def value(loc: Tensor, sd: Tensor) -> Tensor:
        return divergence(AggregatePosterior.of(dist.Normal(loc, sd + 0.1).to_event(1), prior))

    small = codes(64)
    seconds(lambda: value(*small), small)
    before = peak()
    for n in sizes:
        given = codes(n)
        if n < 4096:  # the first call of a size is not the next ones'
            seconds(lambda given=given: value(*given), given)  # type: ignore[misc]
        taken = seconds(lambda given=given: value(*given), given)  # type: ignore[misc]
        held = (peak() - before) / MIB
        reference = seconds(lambda z=given[0]: bare(z), given[:1])  # type: ignore[misc]
        found.append((taken, taken / reference, held))
    return found


def draw(found: dict[str, list[tuple[float, float, float]]], sizes: list[int], path: Path) -> None:
    import matplotlib.pyplot as plt

    from ppl_vae.plots.palette import MARKERS, STYLE, line_colours, logarithmic

    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    titles = ("s of CPU, forward and backward", "peak memory, MiB")
    looks = list(zip(line_colours(len(found)), MARKERS, strict=False))
    for k, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for (colour, marker), (name, rows) in zip(looks, found.items(), strict=True):
            values = [max(row[2 * k], 1.0 if k else 1e-4) for row in rows]
            axis.plot(sizes, values, color=colour, marker=marker, label=name, markersize=4)
        logarithmic(axis, "x", "y")
        axis.set(title=title, xlabel="rows n")
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--only", nargs="+", default=list(DIVERGENCES), metavar="NAME")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    if options.one is not None:
        print(json.dumps(measure(options.one, options.sizes, options.dim)))
        return
    n = options.sizes[-1]
    lines = [f"d = {options.dim}, one thread. {machine()}", ""]
    lines.append(
        f"| divergence | {' | '.join(f's, n = {n:,}' for n in options.sizes)} | of the bare "
        f"product, n = {n:,} | {' | '.join(f'MiB, n = {n:,}' for n in options.sizes)} |"
    )
    lines.append("|---" * (2 * len(options.sizes) + 2) + "|")
    found = {}
    for name in options.only:
        words = [sys.executable, __file__, "--one", name, "--dim", str(options.dim)]
        words += ["--sizes", *map(str, options.sizes)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        rows = found[name] = json.loads(done.stdout.splitlines()[-1])
        times = " | ".join(f"{row[0]:.2g}" for row in rows)
        held = " | ".join(f"{row[2]:.0f}" for row in rows)
        lines.append(f"| `{name}` | {times} | {rows[-1][1]:.1f} | {held} |")
        print(lines[-1], flush=True)
    if options.write is not None:
        write(options.write, "scaling", "\n".join(lines))
        draw(found, options.sizes, options.write.parent / "pictures" / "scaling.png")


if __name__ == "__main__":
    main()
