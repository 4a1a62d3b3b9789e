"""Rows as a torch data set or loader gives them, as tensors."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from ppl_vae.data.checks import Channels, channels_first
from ppl_vae.data.loaders import least, splits
from ppl_vae.data.tensors import as_tensor
from ppl_vae.world import here

__all__ = ["Parts", "Reader", "Source", "is_stream"]

Source = DataLoader[Any] | TorchDataset[Any]

Parts = tuple[Tensor, ...]

# Batches that an iterable is shuffled in.
_SHUFFLED = 8


def is_stream(data: object) -> TypeGuard[Source]:
    """Whether data are read batch by batch: a torch `Dataset` or `DataLoader`."""
    return isinstance(data, DataLoader | TorchDataset)


class Reader:
    """Reads a torch `Dataset` or `DataLoader` in batches, x and what comes with it.

    Args:
        source: a `DataLoader`, which is taken as it is; or a map-style or an iterable `Dataset`,
            which is read in batches of the size asked for. One of ours may say how its items are
            collated, and how many workers read it.
        name: what messages call it.
        channels: of images.
    """

    def __init__(
        self, source: Source, name: str = "data", channels: Channels | None = None
    ) -> None:
        self.source, self.name, self._channels = source, name, channels

    def whole(self) -> Parts:
        """All rows in their order, in memory."""
        several = [*self.read(256)]
        if not several:
            raise ValueError(f"{self.name} gives no rows: give some")
        return _joined(several)

    def read(self, batch_size: int, shuffle: bool = False, skip: int = 0) -> Iterator[Parts]:
        """Batches once through, a last one of a single row joined to the one before it.

        Args:
            batch_size: rows to a batch, where a loader does not say so itself.
            shuffle: go through a data set in a new order: all of a map-style one is shuffled, of
                an iterable one eight batches at a time. Of several processes each gets its share.
            skip: batches of a map-style data set to leave out at the start.
        """
        loader = self._told(self._loader(batch_size, shuffle, skip))
        read: Iterator[Parts] = (self._parts(batch) for batch in loader)
        if shuffle and isinstance(self.source, IterableDataset):
            read = _shuffled(read, batch_size)
        if not isinstance(self.source, DataLoader | IterableDataset):
            yield from read  # which are a process's own, and of two rows or more
            return
        shared = here().shard if shuffle else _whole
        before: Parts | None = None
        for parts in read:
            if before is not None and len(parts[0]) < least() <= len(before[0]):
                parts, before = _joined([before, parts]), None
            if before is not None:
                yield shared(*before)
            before = parts
        if before is not None:
            yield shared(*before)

    def _loader(self, batch_size: int, shuffle: bool, skip: int) -> Iterable[Any]:
        if isinstance(self.source, DataLoader):
            return self.source
        # a generator of its own: that of all else is moved as by rows in memory
        settings: dict[str, Any] = {"generator": torch.Generator().manual_seed(0)}
        if (collate := getattr(self.source, "collate", None)) is not None:
            settings["collate_fn"] = collate
        settings["num_workers"] = getattr(self.source, "workers", 0)
        if isinstance(self.source, IterableDataset):
            return DataLoader(self.source, batch_size, **settings)
        n = len(self.source)  # type: ignore[arg-type]
        order = torch.randperm(n) if shuffle else torch.arange(n)
        parts = splits(n, batch_size)[skip:] if n else []
        # each of several processes reads no rows but its own
        shared = here().shard if shuffle else _whole
        chosen = [shared(order[rows])[0].tolist() for rows in parts]
        return DataLoader(self.source, batch_sampler=chosen, **settings)

    def _told(self, loader: Iterable[Any]) -> Iterator[Any]:
        """A loader's batches, whose own errors are said in one line."""
        try:
            yield from loader
        except (TypeError, ValueError, RuntimeError) as error:
            if str(error).startswith("Caught "):  # by a worker, with all that led to it
                said = str(error).strip().splitlines()[-1]
                raise type(error)(said.partition(": ")[2]) from error
            if "equal size" in str(error):
                raise ValueError(
                    f"{self.name} has items of several shapes: give them one"
                ) from error
            if "default_collate" in str(error):
                kind = str(error).partition("found ")[2] or "something else"
                raise ValueError(
                    f"{self.name} has items that hold {kind}: give numbers, as by a transform "
                    "such as torchvision.transforms.PILToTensor()"
                ) from error
            raise

    def _parts(self, batch: Any) -> Parts:
        parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        numbers = all(isinstance(part, Tensor | np.ndarray) for part in parts)
        if not numbers or not 1 <= len(parts) <= 2:
            kinds = ", ".join(type(part).__name__ for part in parts)
            raise ValueError(
                f"a batch of {self.name} is ({kinds}): give tensors of x, or of x and its labels "
                "or covariates"
            )
        x, *rest = (as_tensor(part, self.name).detach() for part in parts)
        # NumPy has no such type
        x = x.float() if x.dtype == torch.bfloat16 else x
        if x.ndim < 2 or any(len(part) != len(x) for part in rest if part.ndim):
            raise ValueError(
                f"a batch of {self.name} has shape {tuple(x.shape)}, not (rows, *shape of one "
                "row): give a batch_size, a single number per row being (n, 1)"
            )
        return channels_first(x, self._channels, self.name), *rest


def _whole(*parts: Tensor) -> Parts:
    return parts


def _joined(several: list[Parts]) -> Parts:
    return tuple(torch.cat(part) for part in zip(*several, strict=True))


def _shuffled(read: Iterator[Parts], batch_size: int) -> Iterator[Parts]:
    """Rows in a new order within blocks of several batches."""
    block: list[Parts] = []

    def mixed() -> Iterator[Parts]:
        whole = _joined(block)
        order = torch.randperm(len(whole[0]))
        for k in range(0, len(order), batch_size):
            yield tuple(part[order[k : k + batch_size]] for part in whole)
        block.clear()

    for parts in read:
        block.append(parts)
        if len(block) == _SHUFFLED:
            yield from mixed()
    if block:
        yield from mixed()
