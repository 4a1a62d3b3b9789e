"""Rows that count more or less than others."""

from collections.abc import Sequence
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.program.modules import Program

__all__ = ["Weighted"]


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
