r"""The mutual auto-encoder learns a code of chosen information where the VAE learns none.

Both data sets of the poster can be modelled without a code, and the VAE does just that.
Categorical: x uniform on ten values, p(x|z) a network with a softmax. Splitting the normal: x ~
N(0, 1), p(x|z) normal with mean and scale from a network. z ~ N(0, 1); p, q and r are two-layer
networks. For each target M the table holds the true I(x, z) of the trained model and the mean
log-likelihood under the data's law, both by quadrature; and for the normal the decoder's standard
deviation, whose value in an exact split is e^-M. The pictures are the poster's figures 5 and 6.

q(z|x) is normal, as in the poster. For ten values so is r(z|x) there, but it need not be: ten
values cut the line into intervals, inside which z is far from normal, so that with a normal r no
model's bound exceeds 2.1045 (the maximum over all cuts). M = 2.2 is then out of reach, and what
comes out depends on when training stops. r is a mixture of four normals here; the last row of the
categorical data has the normal.

Bui, Kushman, Nowozin, Tomioka and Welling (2017), The mutual autoencoder: controlling information
in latent code representations.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch

from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.measures import packed
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, most, value
from ppl_vae.reproductions.common.verdicts import Claim, Condition
from ppl_vae.reproductions.mutual_autoencoder.pictures import codes, draw_categorical, draw_normal
from ppl_vae.reproductions.mutual_autoencoder.training import (
    CATEGORICAL,
    NORMAL,
    VALUES,
    train_categorical,
    train_normal,
    truth,
)

__all__ = ["EXPERIMENT"]


@torch.no_grad()
def measure(seed: int, data: str, information: float | None, normal_r: bool) -> Measures:
    """Trains one model; its truth by quadrature, and what its picture shows."""
    at = codes()
    with torch.enable_grad():
        vae = (
            train_categorical(information, seed, normal_r)
            if data == "categorical"
            else train_normal(information, seed)
        )
    found: Measures = {**truth(vae)}
    if data == "categorical":
        shown = vae.likelihood(at["z"][:, None]).probs
    else:
        fn = vae.likelihood(at["rows"][:, None, None].expand(-1, len(at["x"]), 1))
        prior = dist.Normal(0.0, 1.0).log_prob(at["rows"])[:, None]
        shown = (fn.log_prob(at["x"][:, None]) + prior).exp()
    return found | {"shown": packed(shown)}


def cells(categorical: Sequence[float], normal: Sequence[float]) -> Sequence[Cell]:
    """One for each model, and the worse r of the first data set's last M."""
    found = []
    for data, targets in (("categorical", categorical), ("normal", normal)):
        for target in (None, *targets):
            settings = {"data": data, "information": target, "normal_r": False}
            found.append(Cell(_name(data, target), measure, settings))
    worse = {"data": "categorical", "information": categorical[-1], "normal_r": True}
    return [*found, Cell(WORSE, measure, worse)]


def _name(data: str, target: float | None) -> str:
    return f"{data}, VAE" if target is None else f"{data}, M = {target:g}"


WORSE = f"{_name('categorical', CATEGORICAL[-1])}, normal r"


def claims(found: Found) -> Sequence[Claim]:
    """The figures of the poster's two data sets."""

    def informed(data: str, targets: Sequence[float], near: float, best: float, off: float) -> Any:
        def conditions(run: Mapping[str, Measures]) -> list[Condition]:
            names = [_name(data, target) for target in targets]
            gaps = [
                abs(value(run, n, "information") - m) for n, m in zip(names, targets, strict=True)
            ]
            losses = [best - value(run, name, "log_p") for name in names]
            return [
                Condition("true I less M, largest", most(gaps), at_most=near),
                Condition("log-likelihood below the best, largest", most(losses), at_most=off),
                Condition(
                    "the VAE's I", value(run, _name(data, None), "information"), at_most=0.05
                ),
            ]

        return by_seed(found, conditions)

    def scale(run: Mapping[str, Measures]) -> list[Condition]:
        off = [abs(value(run, _name("normal", m), "scale") / math.exp(-m) - 1) for m in NORMAL]
        return [Condition("decoder sd over e^-M, less 1, largest", most(off), at_most=0.1)]

    row = "mutual auto-encoder"
    normal_best = -0.5 * math.log(2 * math.pi * math.e)
    return [
        Claim(
            "a",
            "Ten values: the code has the information asked for, at no loss; the VAE's has none.",
            "true I within .05 of M = .8, 1.6, 2.2, log-likelihood within .01 of -log 10",
            informed("categorical", CATEGORICAL, 0.05, -math.log(VALUES), 0.01),
            row,
            "no figure (poster); toy: .847, 1.606, 2.173, VAE .016",
        ),
        Claim(
            "b",
            "Splitting the normal: likewise.",
            "true I within .1 of M = .5, 1, 1.5, 2, log-likelihood within .02 of -1.419",
            informed("normal", NORMAL, 0.1, normal_best, 0.02),
            row,
            "no figure (poster)",
        ),
        Claim(
            "c",
            "Its decoder's standard deviation is e^-M.",
            "within 10 % at every M",
            by_seed(found, scale),
            row,
            "derived; toy: .616, .366, .239, .135",
        ),
    ]


def draw(found: Found, folder: Path) -> Sequence[Path]:
    """The poster's figures 5 and 6."""
    run = next(iter(found.values()))

    def there(data: str) -> dict[str, Measures]:
        return {n: m for n, m in run.items() if n.startswith(data) and n != WORSE}

    return [
        path
        for path, picture, models in (
            (folder / "categorical.png", draw_categorical, there("categorical")),
            (folder / "normal.png", draw_normal, there("normal")),
        )
        if models and picture(models, path)
    ]


EXPERIMENT = Reproduction(
    scales={"small": {"categorical": CATEGORICAL, "normal": NORMAL}},
    cells=cells,
    columns=("information", "log_p", "scale"),
    claims=claims,
    draw=draw,
)
