"""Whether recorded steps are the eager ones: both are taken for each objective and compared.

    PYTHONPATH=tests python benchmarks/recorded.py [--steps 1000] [--only IWAE Stein]
                                                   [--write docs/performance.md]

The pair, of two dimensions, has batch normalisation and dropout; rows come anew at each step, six
at a time; the optimiser is Adam. "Equal" is of all losses, and of weights, buffers, queues,
critics, multipliers and terms after the last step, bit for bit. The objectives are those of the
contracts in `tests/`, and every divergence in `InfoVAE`; those that stay eager say why. Then the
networks of the library, and one whose gradients lie in memory otherwise than its parameters, are
trained by one objective; by name, `--only "pair: PixelCNN"`.
"""

import argparse
import copy
import warnings
from pathlib import Path

import torch
from steps import write
from test_recording import OBJECTIVES, batches, pairs, trained, trained_pair

from ppl_vae.objectives import InfoVAE, Sinkhorn

_PAIR = "pair: "
OBJECTIVES["Sinkhorn"] = lambda: InfoVAE(Sinkhorn(), scale=5.0)


def compare(name: str, steps: int) -> tuple[int, str]:
    """How many steps are recorded ones, and in words whether they are the eager ones."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if name.startswith(_PAIR):
            of_pair = name.removeprefix(_PAIR)
            losses, state, svi = trained_pair(of_pair, "auto", steps)
            expected, end, _ = trained_pair(of_pair, False, steps)
        else:
            torch.manual_seed(0)
            recorded = OBJECTIVES[name]()
            eager, data = copy.deepcopy(recorded), batches(steps)
            losses, state, svi = trained(recorded, "auto", data)
            expected, end, _ = trained(eager, False, data)
    reasons = [str(w.message) for w in said if "stays eager" in str(w.message)]
    if not svi.recorded:
        reason = reasons[0].split(": ", 1)[1].split(". SVI")[0] if reasons else "no graph fits"
        return 0, f"eager: {reason}"
    same = losses == expected and all(map(torch.equal, state, end))
    return svi.recorded, "equal" if same else "DIFFERENT"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    every = [*OBJECTIVES, *(f"{_PAIR}{name}" for name in pairs())]
    parser.add_argument("--only", nargs="+", default=every, metavar="NAME")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = [f"PyTorch {torch.__version__}; {options.steps} steps each way.", ""]
    lines += ["| objective | graphs | recorded and eager steps |", "|---|---|---|"]
    for name in options.only:
        graphs, words = compare(name, options.steps)
        lines.append(f"| {name} | {graphs} | {words} |")
        print(lines[-1], flush=True)
    write(options.write, "recorded", "\n".join(lines))


if __name__ == "__main__":
    main()
