"""What an evaluation saves by computing once what several metrics share.

    PPL_VAE_DATA=DATA python benchmarks/evaluation.py [--limit 10000] [--rounds 3]

An MMD-VAE and a VAE are trained for an epoch on so many digits of MNIST, and evaluated by all
metrics that `ppl-vae evaluate` computes unasked: once together, and once each for itself, in turn,
in one process and on one thread. Prints the ratio of the CPU seconds of the two, and the metrics
that take most.
"""

import argparse
import os
import statistics
import time

import torch

from ppl_vae.data import MNIST
from ppl_vae.evaluation.metric import Effort
from ppl_vae.evaluation.registry import due, measure
from ppl_vae.experiment import Experiment
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE
from ppl_vae.report.evaluation import subject_of


def seconds(experiment: Experiment, effort: Effort, together: bool) -> dict[str, float]:
    """CPU seconds of each metric, of one subject or of one for each."""
    subject, taken = subject_of(experiment, effort), {}
    for metric in due("fit", "evaluate"):
        start = time.process_time()
        measure(subject if together else subject_of(experiment, effort), [metric])
        taken[metric.name] = time.process_time() - start
    return taken


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1000)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = MNIST(os.environ.get("PPL_VAE_DATA", "data"), limit=options.limit)
    effort = Effort(options.samples, options.rows)
    found = {}
    print(f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} thread")
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


if __name__ == "__main__":
    main()
