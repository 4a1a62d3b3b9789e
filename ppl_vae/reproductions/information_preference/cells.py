"""What is trained: one cell for each decoder, encoder, objective and seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ppl_vae.bodies import DCGAN
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import PixelCNN
from ppl_vae.objectives import (
    MMD,
    Adversarial,
    Autoencoder,
    BetaVAE,
    InfoVAE,
    Objective,
    SlicedWasserstein,
    Stein,
)
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import StandardNormal

__all__ = ["DIM", "OBJECTIVES", "Cell", "Decoder", "build", "cells"]

DIM = 10
GAMMA = 0.9

Decoder = Literal["small", "default"]

OBJECTIVES: dict[str, Callable[[int], Objective]] = {
    "ELBO": lambda pixels: BetaVAE(),
    "MMD": lambda pixels: InfoVAE(MMD(), scale=float(pixels)),
    "MMD, alpha = .5": lambda pixels: InfoVAE(MMD(), alpha=0.5, scale=float(pixels)),
    "sliced Wasserstein": lambda pixels: InfoVAE(SlicedWasserstein(), scale=pixels * 10 / 64),
    "ELBO, the authors' beta": lambda pixels: BetaVAE(pixels / DIM),
    "auto-encoder": lambda pixels: Autoencoder(),
    "Stein": lambda pixels: InfoVAE(Stein(), scale=pixels * 10 / 64),
    "adversarial": lambda pixels: InfoVAE(Adversarial(dim=DIM, hidden=(256, 256)), scale="auto"),
}
"""The losses, by name, each from the number of pixels. That number is lambda of the MMD (the
paper's weight 1 on a likelihood per pixel); the other divergences have the share of it that
matches as well on scikit-learn's digits, see `divergences`; for a critic it is 1/64, "auto"."""


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        side: of the images.
        maps: whether z also enters the decoder as images.
        standardised: whether the encoder's means are standardised and its noise fixed.
        objective: a name among `OBJECTIVES`.
        stops: the steps after which it is evaluated, the last one its end.
        seed: of weights, batches and noise.
        decoder: `small`, or that of the library's defaults.
    """

    side: int
    maps: bool
    standardised: bool
    objective: str
    stops: tuple[int, ...]
    seed: int = 0
    decoder: Decoder = "small"

    @property
    def name(self) -> str:
        """Names the cell's files."""
        words = [f"m{self.side}", "maps" if self.maps else "no maps"]
        words += ["standardised"] * self.standardised + [self.objective]
        words += ["default decoder"] * (self.decoder == "default") + [f"seed {self.seed}"]
        return (
            " ".join(words).replace(",", "").replace(" = ", "").replace("'", "").replace(" ", "-")
        )

    @property
    def critic_steps(self) -> int:
        """Further steps of a critic before each step."""
        return 4 if self.objective == "adversarial" else 0


def build(cell: Cell) -> tuple[VAE, Objective]:
    """The pair and the loss of a cell, their weights started by its seed."""
    torch.manual_seed(cell.seed)
    size = torch.Size((1, cell.side, cell.side))
    settings = {"width": 16, "kernel": 3, "first": 5, "depth": 2 if cell.side == 14 else 3}
    likelihood = PixelCNN(
        DIM,
        size,
        maps=4 if cell.maps else 0,
        **(settings if cell.decoder == "small" else {}),  # type: ignore[arg-type]
    )
    encoder = (
        MeanFieldNormal(size, DIM, _body, standardise=GAMMA, sd=(1 - GAMMA**2) ** 0.5)
        if cell.standardised
        else MeanFieldNormal(size, DIM, _body)
    )
    objective = OBJECTIVES[cell.objective](size.numel())
    assert isinstance(objective, nn.Module)
    return VAE(StandardNormal(DIM), likelihood, encoder), objective


def _body(inputs: torch.Size, outputs: torch.Size) -> nn.Module:
    """A small DCGAN encoder; images of 14x14 are padded by one pixel, as it halves twice."""
    channels, height, width = inputs
    pad = -height % 4 // 2
    padded = torch.Size((channels, height + 2 * pad, width + 2 * pad))
    return nn.Sequential(nn.ZeroPad2d(pad), DCGAN(padded, outputs, (32, 64), features=256))


STOPS = (350, 1000, 3000, 6000)


def cells(seeds: int, first: int = 0) -> list[Cell]:
    """All cells, those that decide a claim first.

    Args:
        seeds: how many.
        first: the first of them.
    """
    every = range(first, first + seeds)
    factorial = ("ELBO", "MMD", "MMD, alpha = .5", "sliced Wasserstein")
    headline = [
        Cell(14, False, False, name, STOPS, seed) for seed in every for name in factorial[:3]
    ]
    short = [
        Cell(14, maps, standardised, name, STOPS[:2] if seed != first else STOPS, seed)
        for seed in every
        for maps in (True, False)
        for standardised in (True, False)
        for name in factorial[:2]
    ]
    large = [
        Cell(28, True, standardised, "ELBO", (280, 700, 1500), seed)
        for seed in every
        for standardised in (True, False)
    ]
    rest = [
        Cell(14, maps, standardised, name, STOPS, first)
        for maps in (True, False)
        for standardised in (True, False)
        for name in factorial
    ]
    others = [
        Cell(14, False, False, name, STOPS, first) for name in OBJECTIVES if name not in factorial
    ]
    default = [
        Cell(14, False, False, name, (1000, 2000, 3000), first, "default")
        for name in factorial[:3]
    ]
    wanted = [*headline[:3], *short, *large[:2], *rest, *headline, *default, *others, *large]
    named: dict[str, Cell] = {}
    for cell in wanted:
        known = named.get(cell.name)
        if known is None or known.stops[-1] < cell.stops[-1]:
            named[cell.name] = cell
    return list(named.values())
