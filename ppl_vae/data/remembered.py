"""A data set whose rows are read when they are asked for."""

from collections.abc import Callable
from typing import Self

import torch

from ppl_vae.data.dataset import Dataset, Extra
from ppl_vae.data.known import Known

__all__ = ["Remembered"]


class Remembered(Dataset):
    """A data set of which a run knows what it was like; its rows are read when asked for.

    Args:
        known: what is known of it.
        make: reads it.
    """

    def __init__(self, known: Known, make: Callable[[], Dataset]) -> None:
        # no super().__init__: there are no rows
        self.known, self._make = known, make
        self.name, self.classes, self.extra = known.name, tuple(known.classes), known.extra
        self.missing = "mask" if known.missing else "refuse"
        self.layout = known.layout

    @property
    def size(self) -> torch.Size:
        return torch.Size(self.known.sizes[0])

    @property
    def width(self) -> int:
        return self.known.width

    def passing(self, what: Extra) -> Self:
        return self

    def rows(self) -> Dataset:
        """The data set itself.

        Raises:
            FileNotFoundError: if it is not where it was.
            ValueError: if it has become another.
        """
        data = self._make().passing(self.extra)
        if data.size != self.size:
            raise ValueError(
                f"{data.name} has rows of shape {tuple(data.size)} where the training's had "
                f"{tuple(self.size)}: name the data that the run was trained on"
            )
        return data
