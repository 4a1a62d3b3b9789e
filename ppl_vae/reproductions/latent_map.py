"""In a plane of codes the classes separate, more under MMD than under the ELBO.

Binarised MNIST (averaged to 14x14 at `small`), d = 2, perceptrons, batches of 100, Adam at 1e-3;
the ELBO, and MMD at lambda the number of pixels. Reported on 2,000 held-out digits: the accuracy
of the ten nearest neighbours among 5,000 training digits' posterior means, the log-determinant of
q(z) over d, and the share of posterior means outside the circle that holds 99 % of the prior. The
pictures are the maps, as in the tutorial's figure of the plane.

The source shows the maps and gives no figure (A Tutorial on Information Maximizing Variational
Autoencoders, S. Zhao, 2017).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyro
import torch

from ppl_vae import evaluation as ev
from ppl_vae import plots
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE, Objective
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.measures import match, packed, unpacked
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, value
from ppl_vae.reproductions.common.training import batches, binarised, mnist, pair_of, train
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = ["EXPERIMENT"]

NAMES = ("ELBO", "MMD")


def measure(
    seed: int, objective: str, steps: int, images: int, side: int, hidden: int
) -> Measures:
    """Trains one and maps the held-out digits."""
    data = mnist(images, side, held=2000)
    assert data.test_labels is not None
    assert data.train_labels is not None
    pyro.set_rng_seed(seed)
    loss: Objective = BetaVAE() if objective == "ELBO" else InfoVAE(MMD(), scale=float(side**2))
    vae = pair_of(data.size, 2, hidden=(hidden, hidden))
    train(vae, loss, batches(data.train, 100, binarise=True), steps)
    pyro.set_rng_seed(seed)
    test, seen = binarised(data.test), binarised(data.train[:5000])
    means, known = (ev.posterior_codes(vae.model, vae.guide, x).mean for x in (test, seen))
    purity = ev.knn_probe(known, data.train_labels[:5000], means, data.test_labels)
    outside = means.square().sum(1) > -2 * math.log(0.01)
    return {
        "kNN": purity.value,
        "kNN error": purity.data_error,
        "outside": float(outside.double().mean()),
        **match(vae, test),
        "map": packed(means),
        "labels": data.test_labels.tolist(),
    }


def cells(**settings: int) -> Sequence[Cell]:
    """One for each objective."""
    return [Cell(name, measure, {"objective": name, **settings}) for name in NAMES]


def claims(found: Found) -> Sequence[Claim]:
    """That classes separate."""

    def separate(run: Mapping[str, Measures]) -> list[Condition]:
        purity, error = (value(run, "MMD", name) for name in ("kNN", "kNN error"))
        return [Condition("kNN under MMD", purity, at_least=0.6, error=error, nothing=0.1)]

    def more(run: Mapping[str, Measures]) -> list[Condition]:
        elbo, mmd = (value(run, name, "kNN") for name in NAMES)
        error = math.hypot(*(value(run, name, "kNN error") for name in NAMES))
        return [Condition("MMD's kNN less the ELBO's", mmd - elbo, at_least=0.0, error=error,
                          nothing=0.0)]  # fmt: skip

    return [
        Claim(
            "a",
            "In the plane of MMD's codes the classes separate.",
            "ten nearest neighbours tell .6 of the held-out digits",
            by_seed(found, separate),
            "2-D latent map",
            "no figure: a picture",
        ),
        Claim(
            "b",
            "They separate more than the ELBO's.",
            "the accuracy under MMD is at least the ELBO's",
            by_seed(found, more),
            "2-D latent map",
            "no figure: a picture",
        ),
    ]


def draw(found: Found, folder: Path) -> Sequence[Path]:
    """The maps."""
    seed, run = next(iter(found.items()))
    paths = []
    for name in NAMES:
        if name in run:
            figure = plots.latent(
                unpacked(run[name]["map"]), torch.tensor(run[name]["labels"]), radius=True
            )
            paths.append(folder / f"{name}.png")
            plots.save(figure, paths[-1], f"{name}, held-out digits (seed {seed})")
    return paths


EXPERIMENT = Reproduction(
    scales={
        "small": {"steps": 1500, "images": 5000, "side": 14, "hidden": 128},
        "medium": {"steps": 10_000, "images": 60_000, "side": 28, "hidden": 512},
    },
    cells=cells,
    columns=("kNN", "outside", "log-det/d", "MMD^2", "sliced W"),
    claims=claims,
    draw=draw,
)
