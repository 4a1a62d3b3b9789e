"""Rows of a file that are read when they are asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

__all__ = ["Mapped"]


class Mapped(TorchDataset[Any]):
    """Some of the rows of a `.npy` file.

    The file is mapped anew for each batch, so that pages it was read from are not held.

    Args:
        path: the file.
        rows: which.
    """

    def __init__(self, path: str | Path, rows: Tensor) -> None:
        self._path, self._rows = path, rows.numpy()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, places: Sequence[int]) -> np.ndarray[Any, Any]:
        array = np.load(self._path, mmap_mode="r", allow_pickle=False)
        return np.asarray(array[self._rows[list(places)]])

    def __getitem__(self, place: int) -> np.ndarray[Any, Any]:
        row: np.ndarray[Any, Any] = self.__getitems__([place])[0]
        return row

    @staticmethod
    def collate(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A batch is one already."""
        return batch
