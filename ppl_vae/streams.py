"""Random numbers of several processes: a stream that all draw alike, and one of each."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from ppl_vae.group import Group

__all__ = ["Streams"]

T = TypeVar("T")


class Streams(Group):
    """A group whose processes draw some numbers alike, and others each by itself.

    Attributes:
        stream: what all draw alike from, as states of torch's generators; None until they part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stream: list[Tensor] | None = None

    def part_streams(self) -> None:
        """From here on each process draws its own, and `alike` what the first would have drawn."""
        state = _states()
        for tensor in state:
            moved = tensor.to(self.device("cpu"))
            dist.broadcast(moved, 0)
            tensor.copy_(moved)
        self.stream = state
        with self.alike(moving=False):
            seed = int(torch.randint(2**31, ()))
        self.seed(seed)

    def apart(self) -> None:
        """Parts the streams unless each process draws its own already."""
        marks = self.counts(zlib.crc32(torch.get_rng_state().numpy().tobytes()))
        if self.stream is None or len({*marks}) < self.size:
            self.part_streams()

    def seed(self, seed: int) -> None:
        """Sets the seed of what each process draws by itself."""
        torch.manual_seed((seed + 7919 * (self.rank + 1)) % 2**63)

    @contextmanager
    def alike(self, moving: bool = True) -> Iterator[None]:
        """Context in which all processes draw the same.

        Args:
            moving: whether the stream goes on from what was drawn.
        """
        if self.stream is None:
            self.part_streams()
        assert self.stream is not None
        own = _states()
        _set_states(self.stream)
        try:
            yield
            if moving:
                self.stream = _states()
        finally:
            _set_states(own)

    @property
    def common(self) -> Tensor:
        """The state of what all draw alike."""
        if self.stream is None:
            self.part_streams()
        assert self.stream is not None
        return self.stream[0]

    @common.setter
    def common(self, state: Tensor) -> None:
        with self.alike(moving=False):
            torch.set_rng_state(state.cpu())
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                torch.cuda.manual_seed(int(torch.randint(2**31, ())))
                torch.set_rng_state(state.cpu())
            found = _states()
        self.stream = found

    def drawn(self, batches: Iterator[T]) -> Iterator[T]:
        """Batches in an order that all processes draw alike."""
        batches = iter(batches)
        while True:
            with self.alike():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Context with all streams set anew, after which they are as they were."""
        kept = self.stream
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stream = _states()
            self.seed(seed)
            try:
                yield
            finally:
                self.stream = kept


def _states() -> list[Tensor]:
    """The states of torch's generators, of the CPU and of the GPU in use."""
    found = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found.append(torch.cuda.get_rng_state())
    return found


def _set_states(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])
