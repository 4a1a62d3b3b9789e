"""The command line of `make fuzz`."""

import argparse
import resource
import sys
import time
from collections import Counter
from contextlib import nullcontext
from unittest.mock import patch

from conftest import paint_nothing
from matplotlib.figure import Figure

from fuzz.inputs import KINDS, draw
from fuzz.running import Fuzz, folder, shown, smaller

PAINTED = 16
"""Of so many inputs, one has its pictures painted, which takes longer than all else."""


def main() -> int:
    """Runs inputs by their seeds; prints each kind of fault once, with its smallest input."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--number", type=int, default=100_000, help="of inputs")
    parser.add_argument("--kind", choices=[*KINDS], help="only these")
    given = parser.parse_args()
    # what asks for more memory fails, and does not take the machine's
    resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
    fuzz, seen, ran = Fuzz(folder()), Counter[str](), Counter[str]()
    start = time.process_time()
    for seed in range(given.seed, given.seed + given.number):
        kind, value = draw(seed)
        if given.kind not in (None, kind):
            continue
        ran[kind] += 1
        unpainted = patch.object(Figure, "savefig", paint_nothing)
        with nullcontext() if seed % PAINTED == 0 else unpainted:
            fault = fuzz.fault(kind, value)
        if fault is not None:
            seen[f"{kind}: {fault.what}"] += 1
            if seen[f"{kind}: {fault.what}"] == 1:

                def same(less: object, kind: str = kind, what: str = fault.what) -> bool:
                    found = fuzz.fault(kind, less)
                    return found is not None and found.what == what

                least = value if fault.what == "too long" else smaller(value, same)
                print(
                    f"seed {seed}, {kind}: {fault.what}\n{shown(least)}\n{fault.text}", flush=True
                )
        if sum(ran.values()) % 1000 == 0:
            spent = time.process_time() - start
            print(
                f"{sum(ran.values())} inputs, {spent:.0f} CPU s, faults: {len(seen)}", flush=True
            )
    spent = time.process_time() - start
    print(f"{dict(ran)} from seed {given.seed}: {spent:.0f} CPU s")
    for what, count in seen.most_common():
        print(f"{count:6} {what}")
    return bool(seen)


if __name__ == "__main__":
    sys.exit(main())
