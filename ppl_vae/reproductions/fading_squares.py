"""A deterministic encoder folds a line of data into a plane; a random one need not.

Fading squares have one factor, brightness, and the code two dimensions. A WAE-MMD with a uniform
prior on [-1, 1]^2 has to fill the square: a deterministic encoder can only do so by folding the
line of data into it, while an encoder that is uniform on boxes may be narrow along one direction
and wide along the other. 32x32 pixels in the paper, 16x16 at `small`; Bernoulli likelihood, lambda
= 20, the inverse multiquadric C / (C + r^2) summed over C = c d with c = .001 to 2, a ReLU encoder
of two layers and a tanh decoder of three, batches of 100, Adam at 1e-3. At its full weight from
the first step the penalty widens the boxes before they say anything of x; so the random encoder
starts at a width of .05 of the prior's, and lambda rises to 20 over the first half of the
training, for both.

Reported: the squared MMD of the codes of all brightnesses (the same kernel; unbiased), the length
of the path that posterior means take from black to white, and the mean squared error of a pixel of
the square when a drawn code is decoded.

Rubenstein, Schölkopf and Tolstikhin (2018), arXiv:1802.03761, and the talk on Wasserstein
auto-encoders; the figures next to ours are those of a small run of the same kind.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch

from ppl_vae import evaluation as ev
from ppl_vae import guides, plots, priors
from ppl_vae.bodies import MLP
from ppl_vae.data import FadingSquares
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.objectives import IMQ, MMD, InfoVAE, Linear, MultiScale
from ppl_vae.pairs.vae import VAE
from ppl_vae.plots.palette import SCALE, Drawing, styled
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.measures import packed, unpacked
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, value
from ppl_vae.reproductions.common.training import batches, train
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = ["EXPERIMENT"]

SCALES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0, 2.0)
NAMES = ("deterministic", "random")


def measure(seed: int, encoder: str, steps: int, size: int, hidden: int) -> Measures:
    """Trains one and measures."""
    pyro.set_rng_seed(seed)
    data = FadingSquares(size, size // 2, seed=seed)
    assert data.test is not None
    body: Any = partial(MLP, hidden=(hidden, hidden))
    back: Any = partial(MLP, hidden=(hidden, hidden, hidden), activation="tanh")
    made: Any = {
        "deterministic": guides.Deterministic,
        "random": partial(guides.UniformBox, initial_width=0.05),
    }[encoder]
    vae = VAE(priors.Uniform(2), Bernoulli(2, data.size, body=back), made(data.size, 2, body=body))
    kernel = MultiScale(IMQ(1.0), SCALES)  # C = 2 h^2 c = d c
    objective = InfoVAE(MMD(kernel), scale=Linear(0.2, 20.0, over=0.5))
    train(vae, objective, batches(data.train, 100), steps)
    pyro.set_rng_seed(seed)
    pair, path = (vae.model, vae.guide), data.path()
    with torch.no_grad():
        q = vae.encoder(path)
        codes = q.sample()
        inside = data.fade(torch.ones(1))[0] > 0
        shown = (vae.likelihood(codes).mean - path)[:, inside]
    means = ev.posterior_codes(*pair, path).mean
    return {
        "MMD^2": ev.full_mmd(*pair, data.test, kernel).u.value,
        "path": ev.path_length(*pair, path).value,
        "error": float(shown.square().mean()),
        "means": packed(means),
        "codes": packed(codes),
    }


def cells(**settings: int) -> Sequence[Cell]:
    """One for each encoder."""
    return [Cell(name, measure, {"encoder": name, **settings}) for name in NAMES]


def claims(found: Found) -> Sequence[Claim]:
    """The two halves."""

    def folds(run: Mapping[str, Measures]) -> list[Condition]:
        mmd, path = (
            value(run, NAMES[0], name) / value(run, NAMES[1], name) for name in ("MMD^2", "path")
        )
        return [
            Condition("deterministic's path over random's", path, at_least=3.0, nothing=1.0),
            Condition("deterministic's MMD^2 over random's", mmd, at_least=3.0, nothing=1.0),
        ]

    def reconstructs(run: Mapping[str, Measures]) -> list[Condition]:
        ratio = value(run, NAMES[1], "error") / value(run, NAMES[0], "error")
        return [Condition("random's error over deterministic's", ratio, at_most=1.0, nothing=1.0)]

    author = "toy: path 16 to 21 and 2.2, MMD .08 to .09 and .002, error .029 and .003"
    return [
        Claim(
            "a",
            "The deterministic encoder folds the line and matches worse.",
            "its path and its squared MMD are three times the random one's or more",
            by_seed(found, folds),
            "random against deterministic encoders",
            author,
        ),
        Claim(
            "b",
            "The random encoder reconstructs no worse.",
            "its error is at most the deterministic one's",
            by_seed(found, reconstructs),
            "random against deterministic encoders",
            author,
        ),
    ]


@styled
def draw(found: Found, folder: Path) -> Sequence[Path]:
    """Draws of the codes and the path of the means, coloured by brightness."""
    seed, run = next(iter(found.items()))
    there = [name for name in NAMES if name in run]
    figure = Drawing(3.6 * len(there) + 1, 3.6)
    panels = figure.subplots(1, len(there), squeeze=False)[0]
    for axes, name in zip(panels, there, strict=True):
        means, codes = (unpacked(run[name][key]).numpy() for key in ("means", "codes"))
        bright = torch.linspace(0, 1, len(means)).numpy()
        points = axes.scatter(*codes.T, c=bright, cmap=SCALE, s=14, lw=0)
        axes.plot(*means.T, lw=0.9, label="posterior means")
        axes.set(title=f"{name} encoder", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
    panels[0].legend()
    figure.colorbar(points, ax=list(panels), label="brightness")
    path = folder / "plane.png"
    plots.save(figure, path, f"Codes of fading squares (seed {seed})")
    return [path]


EXPERIMENT = Reproduction(
    scales={
        "small": {"steps": 1500, "size": 16, "hidden": 128},
        "medium": {"steps": 10_000, "size": 32, "hidden": 512},
        "full": {"steps": 50_000, "size": 32, "hidden": 1200},
    },
    cells=cells,
    columns=("MMD^2", "path", "error"),
    claims=claims,
    draw=draw,
)
