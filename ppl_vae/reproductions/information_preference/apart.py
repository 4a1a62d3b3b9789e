"""Two claims that need no cell: one gradient, and the digits under a weak decoder."""

from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae import evaluation as ev
from ppl_vae.data import Digits
from ppl_vae.evaluation.classifier import Classifier
from ppl_vae.experiment import Experiment
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE, Objective
from ppl_vae.reproductions.information_preference.cells import Cell, build
from ppl_vae.reproductions.information_preference.training import BATCH

__all__ = ["digits_at_half", "one_gradient"]


def one_gradient(images: Tensor, steps: int = 100) -> dict[str, float]:
    """The norm of the KL's gradient in the encoder, over that of the reconstruction's.

    In double precision and train mode, with the weights of the standardised ELBO's cell after
    some steps.

    Args:
        images: grey images `(n, 1, 14, 14)`.
        steps: of training.
    """
    vae, objective = build(Cell(14, True, True, "ELBO", (steps,)))
    optimiser = torch.optim.Adam(vae.parameters(), lr=2e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        x = torch.bernoulli(images[torch.randint(len(images), (BATCH,))])
        (objective.differentiable_loss(vae.model, vae.guide, x) / len(x)).backward()
        optimiser.step()
    vae, x = vae.double(), x.double()
    q = vae.encoder(x)
    kl = torch.distributions.kl_divergence(q, vae.prior().expand(q.batch_shape)).mean()
    reconstruction = -vae.likelihood(q.rsample()).log_prob(x).mean()
    weights = list(vae.encoder.parameters())
    sizes = []
    for part in (kl, reconstruction):
        found = torch.autograd.grad(part, weights, retain_graph=True, allow_unused=True)
        sizes.append(torch.cat([g.flatten() for g in found if g is not None]).norm())
    return {"share": float(sizes[0] / sizes[1])}


def digits_at_half(seed: int, folder: Path) -> dict[str, float]:
    """InfoVAE at alpha = .5 less the ELBO, on scikit-learn's digits under an MLP.

    Returns:
        The differences in fitted NLL (nats, paired over rows) and probe accuracy with their
        errors, and the ratio of the samples' FID.
    """
    data = Digits()
    assert data.test is not None
    labels = data.train_labels, data.test_labels
    net = ev.train_classifier(data.train, labels[0], data.test, labels[1], cache=folder)
    found = [
        _digits(data, net, objective, seed)
        for objective in (InfoVAE(MMD(), alpha=0.5, scale=64.0), BetaVAE())
    ]
    half, elbo = found
    gap = half["rows"] - elbo["rows"]
    return {
        "NLL": float(gap.mean()),
        "NLL error": float(gap.std()) / len(gap) ** 0.5,
        "FID": half["fid"] / elbo["fid"],
        "probe": half["probe"].value - elbo["probe"].value,
        "probe error": float(torch.tensor([f["probe"].data_error for f in found]).norm()),
    }


def _digits(data: Digits, net: Classifier, objective: Objective, seed: int) -> dict[str, Any]:
    experiment = Experiment(data, objective, dim=10, epochs=60, seed=seed)
    experiment.fit(progress=False)
    pair = experiment.pair.model, experiment.pair.guide
    pyro.set_rng_seed(seed)
    assert data.test is not None
    train, test = (ev.posterior_codes(*pair, part).mean for part in (data.train, data.test))
    images = ev.generate(*pair, data.test, 2000)
    return {
        "rows": ev.nll(*pair, data.test, 500).rows,
        "fid": ev.fid(data.test, images, net).value,
        "probe": ev.linear_probe(train, data.train_labels, test, data.test_labels),
    }
