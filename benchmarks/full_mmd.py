"""Time and memory of the MMD over all pairs of 60,000 codes and 60,000 prior draws.

    python benchmarks/full_mmd.py [--rows 60000] [--dim 10] [--block 1024]

Prints the peak memory above what the codes themselves take, and the time besides that of a bare
matrix product and exponential over the same pairs.
"""

import argparse
import resource
import sys
import time

import torch
from torch import Tensor

from ppl_vae.evaluation import mmd

MIB = 2**20


def peak() -> int:
    """The process's peak resident memory, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def bare(a: Tensor, b: Tensor, block: int) -> float:
    """Seconds for one matrix product, exponential and sum for each pair."""
    start = time.perf_counter()
    total = 0.0
    for i in range(0, len(a), block):
        for j in range(0, len(b), block):
            total += float((a[i : i + block] @ b[j : j + block].T).exp_().sum())
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=10)
    parser.add_argument("--block", type=int, default=1024)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    codes, draws = torch.randn(2, options.rows, options.dim)
    # What the libraries allocate once for themselves is not the estimator's.
    mmd(codes[:100], draws[:100])
    before = peak()
    start = time.perf_counter()
    found = mmd(codes, draws, block=options.block)
    seconds = time.perf_counter() - start
    extra = (peak() - before) / MIB
    # All pairs of codes and draws, and half of the pairs within each: n (m + n/2 + m/2).
    reference = bare(codes * 0.1, draws * 0.1, options.block) * 2
    print(f"MMD of {options.rows} x {options.rows} at d = {options.dim}: U {found.u}, V {found.v}")
    print(f"extra memory {extra:.0f} MiB; {seconds:.1f} s, bare matmul + exp {reference:.1f} s")
    return {"mib": extra, "seconds": seconds, "bare": reference}


if __name__ == "__main__":
    main()
