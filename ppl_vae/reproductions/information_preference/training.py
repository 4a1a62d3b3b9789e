"""The training of a cell, which goes on where an interrupted one stopped."""

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae import files
from ppl_vae.data import MNIST
from ppl_vae.reproductions.information_preference.cells import Cell, build

__all__ = ["BATCH", "digits", "train"]

BATCH, EVERY = 50, 50


def digits(side: int) -> dict[str, Tensor]:
    """Grey digits of some side in [0, 1] with their classes: 10,000 to train on, 2,000 held out.

    The held-out ones are binarised once; those for training are drawn at each step.
    """
    data = MNIST(os.environ.get("PPL_VAE_DATA", "data"), limit=10_000)
    assert data.test is not None
    assert data.train_labels is not None
    assert data.test_labels is not None
    train, test = (
        torch.nn.functional.adaptive_avg_pool2d(x, side) for x in (data.train, data.test[:2000])
    )
    generator = torch.Generator().manual_seed(0)
    return {
        "train": train,
        "train_labels": data.train_labels,
        "test": torch.bernoulli(test, generator=generator),
        "test_labels": data.test_labels[:2000],
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
    moved = [torch.optim.Adam(vae.parameters(), lr=2e-3, betas=(0.9, 0.999))]
    own = list(objective.parameters())
    if own:
        moved.append(torch.optim.Adam(own, lr=1e-3, betas=(0.5, 0.999)))
    vae.train()
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "curves": []}
    torch.manual_seed(1000 + cell.seed)
    files.folder(folder)
    saved = folder / "state.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        vae.load_state_dict(state["pair"])
        objective.load_state_dict(state["objective"])
        for optimiser, kept in zip(moved, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        torch.set_rng_state(state["random"])

    def loss_at(x: Tensor) -> Tensor:
        return objective.differentiable_loss(vae.model, vae.guide, x) / len(x)

    start = time.process_time()
    for step in range(state["step"] + 1, until + 1):
        for _ in range(cell.critic_steps):
            moved[1].zero_grad()
            loss = loss_at(_batch(data))
            for p, g in zip(own, torch.autograd.grad(loss, own), strict=True):
                p.grad = g
            moved[1].step()
        for optimiser in moved:
            optimiser.zero_grad()
        x = _batch(data)
        loss_at(x).backward()  # type: ignore[no-untyped-call]
        for optimiser in moved:
            optimiser.step()
        if step % EVERY == 0 or step in cell.stops:
            state["curves"].append(_spreads(vae, x, step))
        if step % 500 == 0 or step in cell.stops:
            state |= {
                "step": step,
                "seconds": state["seconds"] + time.process_time() - start,
                "pair": vae.state_dict(),
                "objective": objective.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in moved],
                "random": torch.get_rng_state(),
            }
            start = time.process_time()
            if step in cell.stops:
                _save({"pair": state["pair"], "seconds": state["seconds"]}, folder / f"{step}.pt")
            _save(state, saved)


def _batch(data: Tensor) -> Tensor:
    """Binarised images, selected at random and drawn anew."""
    return torch.bernoulli(data[torch.randint(len(data), (BATCH,))])


@torch.no_grad()
def _spreads(vae: Any, x: Tensor, step: int) -> list[float]:
    """The step, the encoder's mean sd and the spread of its means, over a batch."""
    vae.eval()
    q = vae.encoder(x)
    vae.train()
    return [step, float(q.stddev.mean()), float(q.mean.std(0).mean())]


def _save(state: dict[str, Any], path: Path) -> None:
    with files.written(path) as draft:
        torch.save(state, draft)
