"""The training of a cell, which goes on where an interrupted one stopped."""

from pathlib import Path

import torch
from torch import Tensor

from ppl_vae.reproductions.common import training
from ppl_vae.reproductions.information_preference.cells import Cell, build

__all__ = ["BATCH", "digits", "train"]

BATCH, EVERY = 50, 50


def digits(side: int) -> dict[str, Tensor]:
    """Grey digits of some side in [0, 1] with their classes: 10,000 to train on, 2,000 held out.

    The held-out ones are binarised once; those for training are drawn at each step.
    """
    data = training.mnist(10_000, side, held=2000)
    assert data.test is not None
    assert data.train_labels is not None
    assert data.test_labels is not None
    generator = torch.Generator().manual_seed(0)
    return {
        "train": data.train,
        "train_labels": data.train_labels,
        "test": torch.bernoulli(data.test, generator=generator),
        "test_labels": data.test_labels,
    }


def train(cell: Cell, data: Tensor, folder: Path, until: int) -> None:
    """Trains a cell up to a step, and leaves its weights at each stop on the way as `STEP.pt`.

    Args:
        cell: what to train.
        data: grey images `(n, 1, side, side)`.
        folder: of the cell. `state.pt` there holds all that a training needs to go on.
        until: the step.
    """
    vae, objective = build(cell)

    @torch.no_grad()
    def spreads(step: int, x: Tensor) -> list[float]:
        """The step, the encoder's mean sd and the spread of its means, over a batch."""
        vae.eval()
        q = vae.encoder(x)
        vae.train()
        return [step, float(q.stddev.mean()), float(q.mean.std(0).mean())]

    torch.manual_seed(1000 + cell.seed)
    training.train(
        vae,
        objective,
        training.batches(data, BATCH, binarise=True),
        until,
        lr=2e-3,
        critic_steps=cell.critic_steps,
        watch=spreads,
        every=EVERY,
        stops=cell.stops,
        folder=folder,
    )
