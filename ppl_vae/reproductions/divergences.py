"""One VAE on MNIST under each divergence: rate, probe, and how well q(z) matches the prior.

Grey digits under a Bernoulli likelihood, two-layer networks of 512, d = 10, an encoder that starts
at sd e^-2, 5 epochs of 20,000 digits, batches of 128, Adam at 1e-3; lambda as found for
scikit-learn's digits. Medians of three seeds over the 10,000 test digits: the rate and the
reconstruction in nats; minus log p(x) of 200 of them, by 200 draws from a proposal fitted to each
digit, and the median effective size of these draws; the accuracy of a linear probe on posterior
means; the unbiased squared MMD (RBF) of q(z) and the prior; and the log-determinant of the
covariance of q(z) per dimension (0 as for the prior; the range of the three next to it). MNIST is
read from the folder `data`, or the one that PPL_VAE_DATA names.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pyro

from ppl_vae.data import MNIST
from ppl_vae.evaluation import nll
from ppl_vae.evaluation.registry import due, measure
from ppl_vae.experiment import Experiment
from ppl_vae.objectives import (
    IMQ,
    MMD,
    Adversarial,
    BetaVAE,
    CramerWold,
    Divergence,
    Energy,
    InfoVAE,
    Objective,
    SlicedWasserstein,
    Stein,
)
from ppl_vae.report.evaluation import subject_of

__all__ = ["objectives", "run"]

SEEDS = 3
ROWS, DRAWS, STEPS = 200, 200, 200


def objectives() -> dict[str, Callable[[], Objective]]:
    """What is compared, by name with its lambda."""

    def weighed(divergence: Callable[[], Divergence], scale: float) -> Callable[[], Objective]:
        return lambda: InfoVAE(divergence(), scale=scale)

    return {
        "ELBO": BetaVAE,
        "MMD, RBF, 64": weighed(MMD, 64.0),
        "MMD, IMQ, 20": weighed(lambda: MMD(IMQ()), 20.0),
        "energy, 10": weighed(Energy, 10.0),
        "sliced Wasserstein, 10": weighed(SlicedWasserstein, 10.0),
        "Cramer-Wold, 1": weighed(CramerWold, 1.0),
        "Stein, 10": weighed(Stein, 10.0),
        "adversarial, 10": weighed(Adversarial, 10.0),
    }


def run(out: Path, seed: int) -> dict[str, Any]:
    """Trains each from three seeds and returns the table."""
    data = MNIST(os.environ.get("PPL_VAE_DATA", "data"), limit=20_000)
    rows: list[list[Any]] = []
    for name, make in objectives().items():
        found = []
        for k in range(SEEDS):
            experiment = Experiment(data, make(), dim=10, epochs=5, seed=seed + k)
            experiment.fit()
            found.append(_measured(experiment))
        middle = [
            median(s[key] for s in found)
            for key in ("rate", "distortion", "nll", "size", "probe_linear", "mmd_u", "log_det")
        ]
        spread = [s["log_det"] for s in found]
        rows.append([name, *middle, f"{min(spread):+.3f} to {max(spread):+.3f}"])
    columns = (
        "divergence", "rate", "reconstruction", "NLL", "size", "probe", "MMD^2", "log-det/d",
        "range",
    )  # fmt: skip
    return {"columns": list(columns), "rows": rows}


def _measured(experiment: Experiment) -> dict[str, float]:
    """The metrics that follow a training, and the NLL by a fitted proposal, as after no penalty
    on the codes is the encoder one."""
    metrics = measure(subject_of(experiment), due("fit")).found
    values = {name: estimate.value for name, estimate in metrics.items()}
    pyro.set_rng_seed(0)
    pair, x = experiment.pair, experiment.rows()[0][:ROWS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the size is in the table
        found = nll(pair.model, pair.guide, x, DRAWS, "full_covariance", steps=STEPS)
    return {**values, "nll": found.value, "size": found.sizes[found.proposal]}
