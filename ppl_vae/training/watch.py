"""A word of warning where the noise of a penalty drowns what the data say of the codes."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.objectives import InfoVAE, penalty_noise
from ppl_vae.objectives.noise import PenaltyNoise
from ppl_vae.program.modules import Program
from ppl_vae.training.checkpoint import count, number

__all__ = ["NoiseWatch"]

# A check costs about two steps, and they fall at doubling intervals: about 1% of 1,000 steps.
_FIRST, _DRAWS = 64, 4
# In a row: the last three quarters of the training so far.
_CHECKS = 3


class NoiseWatch:
    """Measures the noise of a penalty's gradient at steps 64, 128, 256 and so on.

    The steps of a training are those it would have without.
    """

    def __init__(self, model: Program, guide: Program, objective: ELBO) -> None:
        self._pair, self._objective = (model, guide), objective
        self._active = isinstance(objective, InfoVAE) and len(objective.divergences) > 0
        self._next = _FIRST
        self._first: dict[str, PenaltyNoise] = {}
        self._streak: dict[str, int] = {}

    def after(self, step: int, batch: Sequence[Tensor]) -> None:
        """Looks at a batch that has just been trained on, if it is time to.

        Noise alone is no harm: a code can come into use under it, and then the data's pull grows.

        Warns:
            UserWarning: once, if at three checks in a row the noise of the penalty's gradient is
                reliably above the mean square of the data's, and this has not reliably grown
                since the first check.
        """
        if not self._active or step < self._next:
            return
        self._next *= 2
        assert isinstance(self._objective, InfoVAE)
        found = penalty_noise(self._objective, *self._pair, *batch, draws=_DRAWS)
        for name, now in found.items():
            first = self._first.setdefault(name, now)
            grown = now.pull - first.pull > 3 * math.hypot(now.pull_error, first.pull_error)
            self._streak[name] = self._streak.get(name, 0) + 1 if now.exceeds else 0
            if self._streak[name] >= _CHECKS and not grown:
                self._active = False
                warnings.warn(_said(step, name, now), stacklevel=7)
                return

    def state(self) -> dict[str, Any]:
        """What it has seen so far, for a checkpoint."""
        first = {name: asdict(noise) for name, noise in self._first.items()}
        return {"next": self._next, "active": self._active, "first": first, "streak": self._streak}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self._next, self._active = max(_FIRST, count(state["next"])), state["active"] is True
        first = {k: {f: number(x) for f, x in each.items()} for k, each in state["first"].items()}
        self._first = {name: PenaltyNoise(**noise) for name, noise in first.items()}
        self._streak = {name: count(n) for name, n in state["streak"].items()}


def _said(step: int, name: str, now: PenaltyNoise) -> str:
    return (
        f"step {step}: the noise of the penalty's gradient on the codes of {name!r} is "
        f"{now.ratio:.2g} times all that the data pull (mean squares; see "
        "ppl_vae.objectives.penalty_noise), and this has not grown since the training began: it "
        "can keep a code collapsed. Integrate the encoder's noise (MMD(), Energy() and "
        "CramerWold() do where the guide is Gaussian) over pairs='all', give it larger batches or "
        "a Memory, lower scale, or take alpha=.5"
    )
