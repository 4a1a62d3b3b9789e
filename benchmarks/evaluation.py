"""What an evaluation saves by computing once what several metrics share.

    PPL_VAE_DATA=DATA python benchmarks/evaluation.py [--limit 10000] [--rounds 3]
    PPL_VAE_DATA=DATA python benchmarks/evaluation.py --before CHECKOUT

An MMD-VAE and a VAE are trained for an epoch on so many digits of MNIST, and evaluated by all
metrics that `ppl-vae evaluate` computes unasked: once together, and once each for itself, in turn,
in one process and on one thread. Prints the ratio of the CPU seconds of the two, and the metrics
that take most.

With `--before` it compares the whole command with that of another checkout, such as
`git worktree add CHECKOUT COMMIT` makes: that one trains the run, and both evaluate a copy of it
in turn, a process each, whose user and system seconds are counted.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ppl_vae.data import MNIST
from ppl_vae.evaluation.metric import Effort
from ppl_vae.evaluation.registry import due, measure
from ppl_vae.experiment import Experiment
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE
from ppl_vae.report.evaluation import subject_of

ROOT = Path(__file__).parents[1]
DATA = os.environ.get("PPL_VAE_DATA", "data")


def seconds(experiment: Experiment, effort: Effort, together: bool) -> dict[str, float]:
    """CPU seconds of each metric, of one subject or of one for each."""
    subject, taken = subject_of(experiment, effort), {}
    for metric in due("fit", "evaluate"):
        start = time.process_time()
        measure(subject if together else subject_of(experiment, effort), [metric])
        taken[metric.name] = time.process_time() - start
    return taken


def shared(options: argparse.Namespace) -> dict[str, float]:
    """The ratio of computing together to computing alone, by objective."""
    data, effort, found = (
        MNIST(DATA, limit=options.limit),
        Effort(options.samples, options.rows),
        {},
    )
    for objective in (BetaVAE(), InfoVAE(MMD(), scale="auto")):
        name = type(objective).__name__
        experiment = Experiment(data, objective, dim=10, epochs=1)
        experiment.fit(progress=False)
        ratios, last = [], {}
        for _ in range(options.rounds):
            last = seconds(experiment, effort, together=True)
            alone = seconds(experiment, effort, together=False)
            ratios.append(sum(last.values()) / sum(alone.values()))
        found[name] = statistics.median(ratios)
        most = sorted(last, key=last.__getitem__)[:-6:-1]
        costs = ", ".join(f"{metric} {last[metric]:.1f} s" for metric in most)
        print(
            f"{name}: {sum(last.values()):.0f} s of CPU together, {found[name]:.2f} of each for "
            f"itself ({min(ratios):.2f} to {max(ratios):.2f}); most: {costs}"
        )
    return found


def command(checkout: Path, *words: str) -> float:
    """CPU seconds, user and system, of a `ppl-vae` command of some checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "ppl_vae", *words, "--device", "cpu"],
        cwd=checkout, env=environment, check=True, capture_output=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def against(other: Path, options: argparse.Namespace) -> dict[str, float]:
    """The ratio of the command here to that of another checkout."""
    sizes = ["--samples", str(options.samples), "--rows", str(options.rows)]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        data = ["--data", "MNIST", "--data.root", str(Path(DATA).resolve())]
        few = ["--data.limit", str(options.limit), "--epochs", "1", "--objective", "BetaVAE"]
        command(other, "fit", *data, *few, "--out", str(run))
        (run / "summary.json").unlink(missing_ok=True)  # each writes its own
        pairs = []
        for _ in range(options.rounds):
            taken = []
            for checkout in (ROOT, other):
                copy = Path(shutil.copytree(run, Path(folder, "copy")))
                taken.append(command(checkout, "evaluate", str(copy), *sizes))
                shutil.rmtree(copy)
            pairs.append(taken)
            print(f"{taken[0]:.0f} s here, {taken[1]:.0f} s there: {taken[0] / taken[1]:.2f}")
    return {"command": statistics.median(here / there for here, there in pairs)}


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--before", type=Path, help="a checkout to compare the command with")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} thread")
    if options.before is not None:
        return against(options.before.resolve(), options)
    return shared(options)


if __name__ == "__main__":
    main()
