"""Recorded steps of several processes beside eager ones, with the pairs of `ranks`."""

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from ranks import CASES, FITS, Case, Rows, fitted, owners, plain_guide, plain_model, shared_out
from torch import Tensor

from ppl_vae import SVI, world
from ppl_vae.objectives import BetaVAE
from ppl_vae.training import svi as module
from ppl_vae.training.recording import Recording

CYCLES = 6
SPLITS = ((64, 64), (64, 21))
"""Of the batches in turn: what the first process is given does not say which it is."""


def taken(case: Case, record: Any) -> dict[str, Any]:
    """Losses of some steps, what they end with, how many graphs there are, and what is said."""
    pyro.clear_param_store()
    here = world.here()
    assert isinstance(here, world.Processes)
    here.stream = None
    here.met.clear()
    torch.manual_seed(7)
    objective, pair = case.double()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        svi = SVI(*pair, pyro.optim.Adam({"lr": 1e-2}), objective, record=record)
        losses = []
        for k in range(CYCLES * len(SPLITS)):
            counts = SPLITS[k % len(SPLITS)]
            with shared_out(counts):
                losses.append(svi.step(*here.shard(Rows.make(sum(counts)))))
    state = [p for _, p in pyro.get_param_store().named_parameters()]
    state += [*objective.buffers(), *objective.terms.values()]
    state += [buffer for owner in owners(pair) for buffer in owner.buffers()]
    return {
        "losses": losses,
        "state": [t.detach().clone() for t in state],
        "noise": [torch.get_rng_state(), *(here.stream or [])],
        "graphs": svi.recorded,
        "said": [str(w.message) for w in said if "eager" in str(w.message)],
    }


def branching(x: Tensor) -> None:
    """Looks at numbers in one process alone."""
    if world.here().rank == 1 and Rows(x).x.sum() > 1e9:
        x = -x
    plain_model(x)


def counting() -> Callable[[Tensor], None]:
    """What is another at each step in one process alone, where nobody looks."""
    calls = [0.0]

    def model(x: Tensor) -> None:
        calls[0] += world.here().rank
        plain_model(x * (1 + calls[0]))

    return model


FALLING = {
    "branching": Case(BetaVAE, lambda: (branching, plain_guide)),
    "counting": Case(BetaVAE, lambda: (counting(), plain_guide)),
}
"""Pairs that cannot be recorded."""

RECORDED = [
    "BetaVAE",
    "InfoVAE, half",
    "IWAE",
    "MutualAutoencoder",
    "D: Adversarial, WGAN-GP",
    "D: SlicedWasserstein",
    "D: Memory, shifts",
    "dual",
    "subsampled, capacity",
    "global",
    "batch norm",
    "enumerated, shifts",
    "particles",
]


def recording() -> dict[tuple[str, str], Any]:
    """What processes find of steps both ways, and of a `fit` whose steps are recorded."""
    found: dict[tuple[str, str], Any] = {}
    first, module._FIRST = module._FIRST, 2
    replay, replays = Recording.replay, []
    try:
        for name in RECORDED:
            found["recorded", name] = taken(CASES[name], "auto")
            found["eager", name] = taken(CASES[name], False)
        for name, case in FALLING.items():
            found["recorded", name] = taken(case, "auto")
            found["eager", name] = taken(case, False)
        Recording.replay = lambda *given: replays.append(1) or replay(*given)  # type: ignore
        found |= {("recorded fit", name): fitted(case) for name, case in FITS.items()}
        found["replays", ""] = len(replays)
    finally:
        module._FIRST, Recording.replay = first, replay  # type: ignore[method-assign]
    return found
