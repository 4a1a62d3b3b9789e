"""What is asked of a group of `torch.distributed`: sums of tensors, and words of hosts."""

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["Group"]

T = TypeVar("T")
R = TypeVar("R")

# How many keys are remembered; one that is met again later counts as another.
_KEYS = 256
_next = itertools.count(1)
"""No number is given twice, whatever groups come after each other."""


class Group:
    """The processes of one group, from the view of one of them.

    Attributes:
        rank: its number among them.
        size: how many there are.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._notes: list[tuple[Any, Any]] | None = None
        self._numbers: dict[Hashable, int] = {}

    def summed(self, part: Tensor) -> Tensor:
        """The sum over processes of a tensor of one shape, which passes no gradients."""
        found = part.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(found)
        return found

    def exchanged(self, said: T, how: Callable[[T], R]) -> R:
        """What comes of what the hosts of all processes say; see `noting`."""
        found = how(said)
        if self._notes is not None:
            self._notes.append((said, found))
        return found

    @contextmanager
    def noting(self) -> Iterator[list[tuple[Any, Any]]]:
        """Context in which it is noted what hosts exchange, and what came of it."""
        notes: list[tuple[Any, Any]] = []
        self._notes = notes
        try:
            yield notes
        finally:
            self._notes = None

    def added(self, numbers: Sequence[int]) -> list[int]:
        """The sums over processes of integers, for the host."""

        def add(numbers: Sequence[int]) -> list[int]:
            found = torch.tensor(numbers, dtype=torch.long, device=self.device("cpu"))
            dist.all_reduce(found)
            return found.tolist()  # type: ignore[no-any-return]

        return self.exchanged([*numbers], add)

    def each(self, value: T) -> list[T]:
        """A value of each process."""

        def collect(value: T) -> list[T]:
            found: list[Any] = [None] * self.size
            dist.all_gather_object(found, value)
            return found

        return self.exchanged(value, collect)

    def counts(self, count: int) -> list[int]:
        """A count of each process."""
        return self.added([count * (rank == self.rank) for rank in range(self.size)])

    def agreed(self, key: Hashable) -> Hashable:
        """What stands for the keys of all processes; None where one has none."""
        # Each process numbers the keys that it meets.
        number = 0
        if key is not None:
            number = self._numbers.pop(key, 0) or next(_next)
            self._numbers[key] = number  # the last used comes last
            if len(self._numbers) > _KEYS:
                del self._numbers[next(iter(self._numbers))]
        numbers = self.counts(number)
        return tuple(numbers) if all(numbers) else None

    def device(self, device: torch.device | str) -> torch.device:
        """Where what lies on a device is exchanged: on the GPU, if there is NCCL alone."""
        if dist.get_backend() == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device(device)
