"""How much a PixelCNN's code says under each objective, after one short epoch.

Binarised MNIST (5,000 digits, drawn anew each epoch), a conditional PixelCNN, which could model
the digits without any code, and a DCGAN encoder, d = 10; one epoch, batches of 50, Adam at 2e-3.
The ELBO is taken at its true weights and at those of the paper's code, whose effective beta is
784 / d; the auto-encoder has no regulariser at all. Over 1,000 held-out digits: the rate, and
bounds of the mutual information of x and z, in nats (it cannot be shown to be above
log 1,000 = 6.9); the NLL, an importance-weighted bound by 50 draws over 200 digits, with its
standard error; the accuracy of an SVM on the codes of 1,000 labelled training digits. MNIST is
read from the folder `data`, or the one that PPL_VAE_DATA names.

Zhao, Song and Ermon (2017), InfoVAE, arXiv:1706.02262 (figures 1 and 3).
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pyro

from ppl_vae import evaluation as ev
from ppl_vae.bodies import DCGAN
from ppl_vae.data import MNIST, Binarized
from ppl_vae.experiment import Experiment
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import PixelCNN
from ppl_vae.objectives import MMD, Autoencoder, BetaVAE, InfoVAE, Objective
from ppl_vae.training.optim import Adam

__all__ = ["measure", "objectives", "run"]

DIM = 10


def objectives() -> dict[str, Objective]:
    """The losses that are compared, by name."""
    return {
        "ELBO": BetaVAE(),
        "ELBO, beta = 784/d": BetaVAE(784 / DIM),
        "MMD-VAE, lambda = 784": InfoVAE(MMD(), scale=784.0),
        "auto-encoder": Autoencoder(),
    }


def run(out: Path, seed: int) -> dict[str, Any]:
    """Trains the four and returns the table."""
    data = MNIST(os.environ.get("PPL_VAE_DATA", "data"), limit=5000)
    rows = []
    for name, objective in objectives().items():
        experiment = Experiment(
            Binarized(data, seed=seed),
            objective,
            dim=DIM,
            likelihood=partial(PixelCNN, width=32, depth=5),
            encoder=partial(MeanFieldNormal, body=partial(DCGAN, channels=(32, 64), features=256)),
            optimizer=Adam(lr=2e-3),
            epochs=1,
            batch_size=50,
            seed=seed,
        )
        experiment.data.test = None  # scored below, on fewer rows
        experiment.fit()
        rows.append([name, *measure(experiment, Binarized(data, dynamic=False, seed=seed), seed)])
    columns = ["objective", "rate", "I at least", "I at most", "NLL at most", "error", "SVM"]
    return {"columns": columns, "rows": rows}


def measure(experiment: Experiment, data: Binarized, seed: int) -> list[float]:
    """Rate, bounds of I(x; z), NLL with its error and the SVM's accuracy, on held-out rows."""
    assert data.test is not None
    pair = experiment.pair.model, experiment.pair.guide
    pyro.set_rng_seed(seed)
    held = data.test[:1000]
    rate = ev.rate(*pair, held)
    information = ev.mutual_information(*pair, held)
    nll = ev.nll(*pair, held[:200], 50, block=500)
    few, test = (ev.posterior_codes(*pair, part[:1000]).mean for part in (data.train, held))
    assert data.train_labels is not None
    assert data.test_labels is not None
    svm = ev.svm_probe(few, data.train_labels[:1000], test, data.test_labels[:1000])
    return [
        rate.value,
        information.lower.value,
        information.upper.value,
        nll.value,
        nll.data_error or float("nan"),
        svm.value,
    ]
