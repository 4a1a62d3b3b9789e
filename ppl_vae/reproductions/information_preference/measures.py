"""What is measured of a trained cell, on held-out rows."""

from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae import evaluation as ev
from ppl_vae.evaluation.classifier import Classifier
from ppl_vae.pairs.vae import VAE
from ppl_vae.plots import samples, save
from ppl_vae.reproductions.common.measures import classes, fitted
from ppl_vae.reproductions.information_preference.cells import DIM

__all__ = ["classifier", "draw", "measure"]

ROWS = {14: 150, 28: 50}  # by the side of the image
DRAWS, STEPS, IMAGES = 100, 150, 1000


def classifier(data: dict[str, Tensor], folder: Path) -> Classifier:
    """A classifier of the binarised digits, whose features the FID takes."""
    train = torch.bernoulli(data["train"], generator=torch.Generator().manual_seed(1))
    labels = data["train_labels"], data["test_labels"]
    return ev.train_classifier(train, labels[0], data["test"], labels[1], cache=folder)


def measure(vae: VAE, data: dict[str, Tensor], net: Classifier) -> dict[str, Any]:
    """Numbers by name, in nats per datum where they are no accuracy or distance."""
    pair = vae.model, vae.guide
    test, labels = data["test"], data["test_labels"]
    pyro.set_rng_seed(0)
    vae.eval()
    found: dict[str, Any] = {"rate": ev.rate(*pair, test).value}
    information = ev.mutual_information(*pair, test[:1000])
    found["I at least"], found["I at most"] = information.lower.value, information.upper.value
    usage = ev.usage(*pair, test[:1000])
    found["usage"], found["usage error"] = usage.value, usage.data_error
    found |= fitted(vae, test[: ROWS[test.shape[-1]]], DRAWS, STEPS)
    codes = ev.posterior_codes(*pair, test)
    train = ev.posterior_codes(*pair, torch.bernoulli(data["train"][:1000])).mean
    svm = ev.svm_probe(train, data["train_labels"][:1000], codes.mean, labels)
    found["SVM"], found["SVM error"] = svm.value, svm.data_error
    found["log-det/d"] = ev.log_det(codes.mean, codes.variance).value
    found["sd"] = float(codes.variance.sqrt().mean())
    found["spread"] = float(codes.mean.std(0).mean())
    found["MMD^2"] = ev.full_mmd(*pair, test).u.value
    with torch.no_grad():
        images = vae.likelihood(torch.randn(IMAGES, DIM)).sample()
    found["FID"] = ev.fid(test, images, net).value
    found["classes"] = classes(net, images, labels)
    return found


@torch.no_grad()
def draw(vae: VAE, data: dict[str, Tensor], path: Path, title: str) -> None:
    """Draws samples: two rows from the prior, two by five steps of the Markov chain.

    The chain z ~ q(z | x), x ~ p(x | z) starts at held-out digits.
    """
    vae.eval()
    torch.manual_seed(0)
    prior = vae.likelihood(torch.randn(20, DIM)).sample()
    x = data["test"][:20]
    for _ in range(5):
        x = vae.likelihood(vae.encoder(x).sample()).sample()
    save(samples(torch.cat([prior, x]), columns=10), path, title)
