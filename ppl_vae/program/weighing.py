"""Rows that count more or less than others."""

from collections.abc import Sequence
from typing import Any

from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.scale_messenger import ScaleMessenger
from torch import Tensor

from ppl_vae.program.modules import Program

__all__ = ["Weighted", "row_weights"]


class Weighted:
    """A program whose last argument is the weights of the rows, `(n,)`.

    They multiply the scale of all sites in the data plate, and of none outside.

    Args:
        program: the program, called with all arguments but the last.
        plates: names of the data plate, or of those pooled.
    """

    def __init__(self, program: Program, plates: Sequence[str]) -> None:
        self.__wrapped__, self.plates = program, plates

    def __call__(self, *args: Any) -> Any:
        *rest, weights = args
        with _Weighing(weights, self.plates):
            return self.__wrapped__(*rest)


class _Weighing(Messenger):
    def __init__(self, weights: Tensor, plates: Sequence[str]) -> None:
        super().__init__()
        self.weights, self.plates = weights, plates

    def _pyro_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.name in self.plates and frame.vectorized:
                weights = self.weights.reshape(-1, *[1] * (-frame.dim - 1))
                msg["scale"] = msg["scale"] * weights


def row_weights(count: int) -> Tensor | None:
    """The weights of the rows of a program under way, `(n,)`; None where all count alike.

    They are what `Weighted` and Pyro's handlers `mask` and `scale` around it have said, as far as
    these are of one number for each row.

    Args:
        count: how many rows there are.
    """
    found: Tensor | None = None
    for handler in _PYRO_STACK:
        said: Any = None
        if isinstance(handler, _Weighing):
            said = handler.weights
        elif isinstance(handler, MaskMessenger):
            said = handler.mask
        elif isinstance(handler, ScaleMessenger):
            said = handler.scale
        if isinstance(said, Tensor) and said.shape == (count,):
            found = said if found is None else found * said
    return found
