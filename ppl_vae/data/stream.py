"""Rows that are read batch by batch, one pass after the other, and never held."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ppl_vae.data.checks import Channels, Missing, check_finite
from ppl_vae.data.loaders import Batches, splits
from ppl_vae.data.moments import Few, Moments
from ppl_vae.data.reader import Parts, Reader, Source

__all__ = ["Stream", "Streamed", "labels_and_covariates"]

# Rows to a batch of the first pass; batches ahead of a GPU.
_READ, _AHEAD = 128, 2


class Stream(Reader):
    """The rows of a torch `Dataset` or `DataLoader`, of which few are held at a time.

    All are read once when it is made, for what must be known of them. Items are x, or x and one
    more: an integer is its label, numbers are its covariates.

    Args:
        source: a `DataLoader`, which is taken as it is; or a map-style or an iterable `Dataset`,
            which is read in batches of the size asked for, in a new order each pass: all of the
            one is shuffled, of the other eight batches at a time.
        name: what messages call it.
        channels: of images.
        missing: what is done about NaN.

    Attributes:
        moments: of x, as it comes.
        few: some of the rows; see `Few`.
        classes: one more than the largest label, 0 without labels.
        has_unknown: whether a label is negative.
        batch_size: rows to a batch of the `DataLoader`; None if their number can be chosen.
        seekable: whether a pass can begin after some of its batches: of a map-style `Dataset`.

    Raises:
        ValueError: if it holds no rows of numbers, all of one shape.
    """

    def __init__(
        self,
        source: Source,
        name: str = "data",
        channels: Channels | None = None,
        missing: Missing = "refuse",
    ) -> None:
        super().__init__(source, name, channels)
        self.classes, self.has_unknown, few = 0, False, Few()
        sizes: list[int] = []
        with torch.random.fork_rng(devices=[]):
            for k, given in enumerate(self.read(_READ)):
                parts = tuple(part.cpu() for part in given)
                if not k:
                    first, self.moments = parts, Moments(parts[0].shape[1:])
                self._check(parts, first, f"{name}: batch {k}", missing)
                self.moments.add(parts[0])
                few.add(parts)
                if (labels := labels_and_covariates(parts[1:])[0]) is not None:
                    self.classes = max(self.classes, int(labels.max()) + 1)
                    self.has_unknown |= bool((labels < 0).any())
                sizes.append(len(parts[0]))
        if not sizes:
            raise ValueError(
                f"{name} gives no rows: give some, and if it is iterable one that begins anew "
                "each time"
            )
        self.few, self._sizes = few.parts, (sum(sizes), len(sizes), min(sizes))
        self.batch_size: int | None = None
        if isinstance(source, DataLoader):
            self.batch_size = source.batch_size or max(sizes)

    def __len__(self) -> int:
        return self._sizes[0]

    def steps(self, batch_size: int) -> int:
        """How many batches a pass has."""
        return len(splits(len(self), batch_size)) if self.batch_size is None else self._sizes[1]

    def smallest(self, batch_size: int) -> int:
        """The rows of its smallest batch."""
        if self.batch_size is not None:
            return self._sizes[2]
        return min(part.stop - part.start for part in splits(len(self), batch_size))

    @property
    def seekable(self) -> bool:
        return not isinstance(self.source, DataLoader | IterableDataset)

    def batches(self, batch_size: int, device: torch.device, skip: int = 0) -> Iterator[Parts]:
        """The rows once through, as they come, on a device.

        Two batches are under way to a GPU while one is used.

        Raises:
            ValueError: if nothing comes.
        """
        ahead: deque[Parts] = deque()
        is_gpu, nothing = device.type == "cuda", not skip
        for parts in self.read(batch_size, shuffle=True, skip=skip):
            nothing = False
            if is_gpu:
                parts = tuple(part if _on_its_way(part) else part.pin_memory() for part in parts)
            ahead.append(tuple(part.to(device, non_blocking=is_gpu) for part in parts))
            if len(ahead) > _AHEAD * is_gpu:
                yield ahead.popleft()
        yield from ahead
        if nothing:
            raise ValueError(
                f"{self.name} gave rows once and none the next time: an iterable must begin anew "
                "each time it is iterated"
            )

    def _check(self, parts: Parts, first: Parts, where: str, missing: Missing) -> None:
        if _kind(parts) != _kind(first):
            raise ValueError(
                f"{where} holds {_kind(parts)} and the first batch {_kind(first)}: give all items "
                "one shape and one kind of numbers"
            )
        check_finite(parts[0], f"{where} at ", missing)
        for part in parts[1:]:
            check_finite(part, f"{where}, besides x, at ")


class Streamed(Batches):
    """A stream's rows as the arguments of a pair.

    Args:
        stream: the rows as they come.
        change: makes arguments of them.
        few: some rows, as arguments.
    """

    def __init__(self, stream: Stream, change: Callable[..., Parts], few: Parts) -> None:
        self._stream, self._change, self.few = stream, change, few
        self.seekable = stream.seekable

    def __len__(self) -> int:
        return len(self._stream)

    def steps(self, batch_size: int) -> int:
        return self._stream.steps(batch_size)

    def smallest(self, batch_size: int) -> Parts:
        return tuple(part[: self._stream.smallest(batch_size)] for part in self.few)

    def batches(self, batch_size: int, skip: int = 0) -> Iterator[Parts]:
        for parts in self._stream.batches(batch_size, self.few[0].device, skip):
            yield self._change(*parts)


def _on_its_way(part: Tensor) -> bool:
    """Whether a GPU can fetch a tensor by itself, or has it."""
    return part.device.type != "cpu" or part.is_pinned()


def labels_and_covariates(extra: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """The labels and the covariates, of which one may come with x: labels are integers."""
    if not extra:
        return None, None
    is_label = extra[0].ndim == 1 and not extra[0].is_floating_point()
    return (extra[0], None) if is_label else (None, extra[0])


def _kind(parts: Parts) -> str:
    """The shapes of items and whether they are floats, in words."""
    kinds = ("floats" if part.is_floating_point() else "integers" for part in parts)
    return " and ".join(
        f"{kind} {tuple(part.shape[1:])}" for kind, part in zip(kinds, parts, strict=True)
    )
