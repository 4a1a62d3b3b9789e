"""Data, pairs and the one loop of the experiments that train by steps."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from ppl_vae import files
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Activation
from ppl_vae.data import MNIST
from ppl_vae.data.dataset import Dataset
from ppl_vae.guides import Encoder, MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli, Likelihood
from ppl_vae.objectives import Objective
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import Prior, StandardNormal
from ppl_vae.training import SVI

__all__ = ["DATA", "batches", "binarised", "mnist", "pair_of", "save", "train"]

DATA = "PPL_VAE_DATA"
"""The environment variable that names MNIST's folder."""


@cache
def mnist(limit: int | None, side: int = 28, held: int | None = None) -> Dataset:
    """Grey digits of MNIST in [0, 1], averaged to a smaller side.

    Args:
        limit: training images; all by default.
        side: of the images.
        held: test images; all by default.

    Raises:
        FileNotFoundError: where MNIST is not in the folder `data`, or the one that PPL_VAE_DATA
            names.
    """
    root = os.environ.get(DATA, "data")
    if not Path(root, "MNIST", "raw").is_dir():
        raise FileNotFoundError(
            f"no MNIST in {root!r}, and this experiment is of its digits: set {DATA} to the "
            "folder that holds MNIST/raw"
        )
    data = MNIST(root, limit=limit)
    assert data.test is not None
    assert data.test_labels is not None
    train, test = (
        nn.functional.adaptive_avg_pool2d(x, side) if side != 28 else x
        for x in (data.train, data.test[:held])
    )
    return Dataset(
        train, test, data.train_labels, data.test_labels[:held], name="MNIST", classes=data.classes
    )


def pair_of(
    size: Sequence[int],
    dim: int,
    *,
    hidden: Sequence[int] = (128, 128),
    activation: Activation = "relu",
    encoder: Callable[..., Encoder] = MeanFieldNormal,
    likelihood: Callable[..., Likelihood] = Bernoulli,
    prior: Callable[[int], Prior] = StandardNormal,
) -> VAE:
    """A VAE of perceptrons, mirrored.

    Args:
        size: of a datum.
        dim: of z.
        hidden: widths of the encoder's layers; the decoder has them in the reverse order.
        activation: of both.
        encoder: factory of q(z | x), called with the size, d and `body=`.
        likelihood: factory of p(x | z), called with d, the size and `body=`.
        prior: factory of p(z).
    """
    size = torch.Size(size)
    body: Callable[..., Any] = partial(MLP, hidden=tuple(hidden), activation=activation)
    back: Callable[..., Any] = partial(MLP, hidden=tuple(hidden[::-1]), activation=activation)
    return VAE(prior(dim), likelihood(dim, size, body=back), encoder(size, dim, body=body))


def batches(x: Tensor, batch: int, binarise: bool = False) -> Callable[[], Tensor]:
    """A function that selects rows at random, with replacement.

    Args:
        x: rows, in [0, 1] where they are binarised.
        batch: how many.
        binarise: draw each pixel anew, with its grey as probability.
    """

    def draw() -> Tensor:
        rows = x[torch.randint(len(x), (batch,))]
        return torch.bernoulli(rows) if binarise else rows

    return draw


def binarised(x: Tensor | None) -> Tensor:
    """Grey images as black and white ones, drawn once, always the same."""
    assert x is not None
    return torch.bernoulli(x, generator=torch.Generator().manual_seed(0))


def train(
    pair: Any,
    objective: Objective,
    draw: Callable[[], Tensor],
    steps: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    critic_lr: float = 1e-3,
    critic_steps: int = 0,
    watch: Callable[[int, Tensor], Any] | None = None,
    every: int = 0,
    stops: Sequence[int] = (),
    folder: Path | None = None,
) -> dict[str, Any]:
    """Trains a pair by Adam, in recorded steps; goes on where an interrupted training stopped.

    Args:
        pair: with `model`, `guide` and parameters.
        objective: the loss; parameters of its own are a critic's.
        draw: makes a batch.
        steps: until which.
        lr: learning rate of the pair.
        betas: Adam's, of the pair.
        critic_lr: learning rate of the objective's own parameters, at betas of .5 and .999.
        critic_steps: further steps of the critic before each step.
        watch: called with the step and its batch, returns what a curve gets.
        every: steps between calls of `watch`; it is called at the stops too.
        stops: steps whose weights are left in the folder as `STEP.pt`.
        folder: that keeps the state, every 500 steps and at the stops; nothing is kept by default.

    Returns:
        The state: the `curves`, and the `seconds` of CPU time so far.
    """
    moved = [torch.optim.Adam(pair.parameters(), lr=lr, betas=betas, fused=True)]
    own = list(objective.parameters())
    if own:
        moved.append(torch.optim.Adam(own, lr=critic_lr, betas=(0.5, 0.999), fused=True))
    objective.plan(steps)
    pair.train()
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "curves": []}
    saved = None if folder is None else files.folder(folder) / "state.pt"
    if saved is not None and saved.exists():
        state = torch.load(saved, weights_only=True)
        pair.load_state_dict(state["pair"])
        objective.load_state_dict(state["objective"])
        for optimiser, kept in zip(moved, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        torch.set_rng_state(state["random"])

    svi = SVI(pair.model, pair.guide, _Steps(moved), objective)
    critic = SVI(pair.model, pair.guide, _Steps(moved[1:]), objective, only=own or None)
    start = time.process_time()
    with pyro.get_param_store().scope():
        for step in range(state["step"] + 1, steps + 1):
            for _ in range(critic_steps if own else 0):
                critic.step(draw())
            x = draw()
            svi.step(x)
            if watch is not None and ((every and step % every == 0) or step in stops):
                state["curves"].append(watch(step, x))
            if saved is not None and (step % 500 == 0 or step in stops):
                assert folder is not None
                state |= {
                    "step": step,
                    "seconds": state["seconds"] + time.process_time() - start,
                    "pair": pair.state_dict(),
                    "objective": objective.state_dict(),
                    "optimisers": [optimiser.state_dict() for optimiser in moved],
                    "random": torch.get_rng_state(),
                }
                start = time.process_time()
                if step in stops:
                    save(
                        {"pair": state["pair"], "seconds": state["seconds"]}, folder / f"{step}.pt"
                    )
                save(state, saved)
    pair.eval()
    return state


class _Steps(PyroOptim):  # type: ignore[misc]
    """Optimisers of torch that step together, as one of Pyro's."""

    def __init__(self, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__(torch.optim.Adam, {})
        self.optimisers = optimisers

    def __call__(self, params: Iterable[Tensor], *_: Any) -> None:
        for optimiser in self.optimisers:
            optimiser.step()


def save(state: dict[str, Any], path: Path) -> None:
    """Writes tensors, whole or not at all."""
    with files.written(path) as draft:
        torch.save(state, draft)
