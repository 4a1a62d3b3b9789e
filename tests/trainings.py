"""Six small trainings, of what a checkpoint has to hold, and the bytes that they leave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch

from ppl_vae import VAE, Bernoulli, MeanFieldNormal, Normal, StandardNormal, fit
from ppl_vae.data import Binarized, Dataset
from ppl_vae.objectives import (
    MMD,
    Adversarial,
    BetaVAE,
    Cosine,
    InfoVAE,
    Linear,
    Memory,
    MutualAutoencoder,
)
from ppl_vae.training.history import History
from ppl_vae.training.optim import Adam

__all__ = ["BATCHES", "TRAININGS", "Made", "contents", "train"]

ROWS = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
HELD_OUT = torch.rand(20, 4, generator=torch.Generator().manual_seed(1))
BATCHES = 6
"""Batches to an epoch."""

Made = tuple[VAE, Any, Any, Any, dict[str, Any]]
"""A pair, data, an objective, an optimiser and further settings."""


def _pair(likelihood: type = Normal) -> VAE:
    torch.manual_seed(5)
    return VAE(StandardNormal(2), likelihood(2, 4), MeanFieldNormal(4, 2))


def elbo() -> Made:
    return _pair(), ROWS, BetaVAE(), None, {"validation": HELD_OUT}


def memory() -> Made:
    return _pair(), ROWS, InfoVAE(Memory(MMD(), size=25), scale=10.0), None, {}


def adversary() -> Made:
    objective = InfoVAE(Adversarial(dim=2), scale=2.0)
    adam = torch.optim.Adam
    pair = _pair()
    made = adam([*pair.parameters(), *objective.parameters()], lr=2e-3)
    return pair, ROWS, objective, made, {"critic_steps": 1}


def mutual() -> Made:
    objective = MutualAutoencoder(information=1.0, auxiliary=MeanFieldNormal(4, 2))
    return _pair(), ROWS, objective, pyro.optim.Adam({"lr": 2e-3}), {}


def schedule() -> Made:
    objective = InfoVAE(MMD(), scale=5.0, alpha=Linear(over=20))
    optimizer = Adam(lr=3e-3, schedule=Cosine(), decay=0.9)
    best = {"keep": "best", "monitor": "reconstruction", "patience": 20}
    return _pair(), ROWS, objective, optimizer, best


def binarized() -> Made:
    data = Binarized(Dataset(ROWS, HELD_OUT))
    return _pair(Bernoulli), data, BetaVAE(), torch.optim.AdamW, {"keep": "best"}


TRAININGS: dict[str, Callable[[], Made]] = {
    make.__name__: make for make in (elbo, memory, adversary, mutual, schedule, binarized)
}


def train(make: Callable[[], Made], epochs: int = 3, **options: Any) -> History:
    """Trains one of them from the beginning of a process, as far as Pyro sees."""
    pyro.clear_param_store()
    torch.manual_seed(7)
    pair, data, objective, optimizer, settings = make()
    usual = {"batch_size": 10, "epochs": epochs, "progress": False, "tensorboard": False}
    settings = {**usual, **settings, **options}
    return fit(pair.model, pair.guide, data, objective, optimizer, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    """What the files of a folder hold, by name."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}
