"""When a training ends, and which of its weights are kept."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from pyro.infer import ELBO
from torch import nn

from ppl_vae.objectives import Constraint
from ppl_vae.objectives.divergences.divergence import critics
from ppl_vae.objectives.schedules import schedules_of
from ppl_vae.training.checkpoint import count, number

__all__ = ["Callback", "Keep", "Watch", "asks_to_stop"]

Callback = Callable[[dict[str, float]], Any]
"""Called with a copy of each epoch's row; returns True to end the training."""

Keep = Literal["last", "best"]


class Watch:
    """Follows one number of each epoch's row; the lowest is the best.

    Args:
        objective: the loss.
        patience: epochs without a lower value after which to stop; None for all epochs.
        keep: which weights to end with.
        monitor: the number's name; the held-out loss by default, or the training loss without
            held-out rows.
        held_out: whether there are held-out rows.
        terms: names of the objective's terms.

    Raises:
        ValueError: for what cannot be followed.
    """

    def __init__(
        self,
        objective: ELBO,
        patience: int | None,
        keep: Keep,
        monitor: str | None,
        held_out: bool,
        terms: Collection[str],
    ) -> None:
        if keep not in get_args(Keep):
            raise ValueError(f"keep is {keep!r}: give 'last' or 'best'")
        if patience is not None and patience < 1:
            raise ValueError(
                f"patience must be at least 1, or None for all epochs: got {patience}"
            )
        self.patience, self.keep = patience, keep
        self.is_used = patience is not None or keep == "best"
        known = ["loss", *terms, *dict.fromkeys(name.split("/")[0] for name in terms)]
        known = [f"validation/{name}" for name in known] * held_out + known
        if monitor is not None:
            if not self.is_used:
                raise ValueError(
                    f"monitor={monitor!r} is for patience= or keep='best': give one of these too"
                )
            if monitor not in known and not monitor.startswith(("sd/", "spread/")):
                raise ValueError(
                    f"monitor is {monitor!r}, which the rows of this training do not have: give "
                    f"one of {', '.join(known)}"
                )
        elif self.is_used and (moving := _moving(objective)):
            choices = [name for name in known if name.endswith(("reconstruction", "rate"))]
            raise ValueError(
                f"the loss of {type(objective).__name__} is not the same quantity at each epoch, "
                f"as {moving}: say what to follow, such as monitor={(choices or known)[0]!r}"
            )
        self.monitor = monitor or known[0]
        self.best, self.epoch, self._seen = math.inf, 0, 0

    def is_best(self, row: Mapping[str, float]) -> bool:
        """Takes the row of the next epoch in, and says whether none before was as good."""
        self._seen += 1
        value = row.get(self.monitor)
        if value is None:
            raise ValueError(f"monitor is {self.monitor!r}, which is not among {', '.join(row)}")
        if value < self.best or not self.epoch:
            self.best, self.epoch = value if value == value else math.inf, self._seen
            return True
        return False

    def state(self) -> dict[str, float]:
        """What it has seen so far, for a checkpoint."""
        return {"best": self.best, "epoch": self.epoch, "seen": self._seen}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self.best, self.epoch = number(state["best"]), count(state["epoch"])
        self._seen = count(state["seen"])

    @property
    def is_over(self) -> bool:
        """Whether patience is at its end."""
        return self.patience is not None and self._seen - self.epoch >= self.patience

    def __str__(self) -> str:
        kept = "its weights are kept" if self.keep == "best" else "the last weights are kept"
        return (
            f"{self._seen} epochs: {self.monitor} was lowest after epoch {self.epoch}, "
            f"{self.best:.4g}; {kept}"
        )


def asks_to_stop(callbacks: Sequence[Callback], row: Mapping[str, float]) -> bool:
    """Calls each with a row of its own, and says whether any of them asks for the end."""
    said = [callback(dict(row)) for callback in callbacks]
    return any(isinstance(answer, bool | np.bool_) and bool(answer) for answer in said)


def _moving(objective: ELBO) -> str:
    """What makes losses of two epochs different quantities, in words; empty if nothing does."""
    if not isinstance(objective, nn.Module):
        return ""
    if critics(objective):
        return "its critic is trained on"
    if any(isinstance(part, Constraint) for part in objective.modules()):
        return "the weight of its constraint is adapted"
    return "a weight in it is scheduled" if schedules_of(objective) else ""
