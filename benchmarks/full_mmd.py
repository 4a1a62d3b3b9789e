"""Time and memory of the MMD over all pairs of 60,000 codes and 60,000 prior draws.

    python benchmarks/full_mmd.py [--rows 60000] [--dim 10] [--block 512] [--rounds 3]
                                  [--write docs/performance.md]

Prints the peak memory above what the codes themselves take, and the CPU time as a ratio to that of
a bare matrix product and exponential over as many pairs, in turn, on one thread.
"""

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from steps import machine, write
from torch import Tensor

from ppl_vae.evaluation import mmd

MIB = 2**20


def peak() -> int:
    """The process's peak resident memory, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def bare(a: Tensor, b: Tensor, block: int) -> float:
    """Seconds for one matrix product, exponential and sum for each pair."""
    start = time.process_time()
    total = 0.0
    for i in range(0, len(a), block):
        for j in range(0, len(b), block):
            total += float((a[i : i + block] @ b[j : j + block].T).exp_().sum())
    return time.process_time() - start


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=10)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    codes, draws = torch.randn(2, options.rows, options.dim)
    # What the libraries allocate once for themselves is not the estimator's.
    mmd(codes[:100], draws[:100])
    before = peak()
    mmd(codes, draws, block=options.block)
    extra = (peak() - before) / MIB
    ours, ratios = [], []
    for _ in range(options.rounds):
        start = time.process_time()
        mmd(codes, draws, block=options.block)
        ours.append(time.process_time() - start)
        # All pairs of codes and draws, and half of the pairs within each: n (m + n/2 + m/2).
        ratios.append(ours[-1] / (2 * bare(codes * 0.1, draws * 0.1, options.block)))
    ratio = statistics.median(ratios)
    words = (
        f"{options.rows:,} codes and draws, d = {options.dim}: {statistics.median(ours):.1f} s of "
        f"CPU, {ratio:.2f} of the bare product and exponential ({min(ratios):.2f} to "
        f"{max(ratios):.2f} in {options.rounds} rounds), extra memory {extra:.0f} MiB. {machine()}"
    )
    print(words)
    write(options.write, "full MMD", words)
    return {"mib": extra, "ratio": ratio}


if __name__ == "__main__":
    main()
