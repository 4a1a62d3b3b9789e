r"""The processes that share a training, and what one of them does for all.

Each process has rows of its own and the same weights. A loss is $A + G$: A a sum over data, and G
a function of all data at once (a divergence of the aggregate posterior, a critic's loss, a
constraint). Process r computes

$$L_r = A_r + G_r / R, \qquad \sum_r \nabla L_r = \nabla (A + G),$$

with $G_r$ on the rows of all, gathered. The backward pass of what is gathered is a sum over
processes, and so is the reduction of gradients, so that each row and each parameter gets the
gradient of the whole, once. This holds too where processes draw other shifts, projections or
prior draws: $\sum_r G_r / R$ is then the mean of R estimates.

One process is a `World` whose methods are identities; several are `Processes`.
"""

import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from ppl_vae.streams import Streams

__all__ = ["Processes", "World", "by_itself", "here", "inside"]

T = TypeVar("T")
Parts = tuple[Tensor, ...]


class World:
    """One process, which has all rows.

    Attributes:
        rank: its number among the processes.
        size: how many there are.
    """

    rank = 0
    size = 1
    among = 1
    """How many processes there are, of which it may do something by itself; see `by_itself`."""

    # Tensors

    def total(self, part: Tensor) -> Tensor:
        """The sum over processes of a tensor of one shape, which passes gradients to all."""
        return part

    def totals(self, *parts: Tensor) -> Sequence[Tensor]:
        """The sums over processes of numbers, 0-dim and detached."""
        return parts

    def portion(self, value: Tensor, weight: Tensor | float | None = None) -> Tensor:
        """What this process adds to the mean over processes of their values.

        Args:
            value: of this process.
            weight: of this process; equal ones where None.
        """
        return value

    def gather(self, part: Tensor, dim: int = 0) -> Tensor:
        """The rows of all processes, in their order, which pass gradients."""
        return part

    def number(self, count: int) -> int:
        """The sum of a count over processes."""
        return count

    def most(self, count: int) -> int:
        """The largest of a count over processes."""
        return count

    def first(self, said: T | None) -> T | None:
        """What the first process that has anything to say says."""
        return said

    def over(self, value: T, how: "Callable[[Processes], T]") -> T:
        """The value as it is, or what several processes make of it."""
        return value

    def agreed(self, key: Hashable) -> Hashable:
        """What stands for the keys of all processes; None where one has none."""
        return None if key is None else ()

    def noting(self) -> AbstractContextManager[list[Any]]:
        """Context in which it is noted what processes tell each other, and what came of it."""
        return nullcontext([])

    # A loss

    def backward(self, loss: Tensor, params: Iterable[tuple[str, Tensor]]) -> None:
        """Adds the gradients of the whole loss to the parameters."""
        if loss.requires_grad:
            loss.backward()

    def reduce(self, params: Mapping[str, Tensor]) -> None:
        """Sums gradients over processes; a parameter without one in any has none after.

        `backward` does it, and with it every objective in `pyro.infer.SVI`. After a `backward` of
        PyTorch's, as of `objective(model, guide)`, a loop does it by itself.

        Args:
            params: by name, the same names in all processes.
        """

    def gradients(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """The sums over processes of gradients, of each parameter that has one in any."""
        return grads

    def refuse(self, what: str, instead: str) -> None:
        """Refuses what several processes cannot do."""

    # Rows and noise

    def shard(self, *parts: Tensor) -> Parts:
        """This process's part of rows that all have."""
        return parts

    def alike(self) -> AbstractContextManager[Any]:
        """Context in which all processes draw the same."""
        return nullcontext()

    def drawn(self, batches: Iterator[T]) -> Iterator[T]:
        """Batches in an order that all processes draw alike."""
        return batches

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Context with torch's generators set anew, after which they are as they were."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        """Sets tensors to what the first process has, in place."""


class Processes(Streams, World):
    """Several processes of one `torch.distributed` group.

    Args:
        timeout: seconds to wait for the others, for messages.
    """

    def __init__(self, timeout: float = 300.0) -> None:
        super().__init__()
        self.among = self.size
        self.timeout = timeout
        self.met: dict[Any, Any] = {}
        """What is known of pairs and objectives that all have from the first."""
        self._leaving: list[Callable[[], None]] = []

    # Tensors

    def total(self, part: Tensor) -> Tensor:
        found: Tensor = _Total.apply(part, self)
        return found

    def totals(self, *parts: Tensor) -> Sequence[Tensor]:
        if not parts:
            return parts
        flat = self.summed(torch.stack([part.detach().double() for part in parts]))
        return [number.to(part.dtype) for number, part in zip(flat, parts, strict=True)]

    def portion(self, value: Tensor, weight: Tensor | float | None = None) -> Tensor:
        if weight is None:
            return value / self.size
        own = torch.as_tensor(weight, dtype=value.dtype, device=value.device)
        (every,) = self.totals(own)
        return value * (own / torch.where(every > 0, every, 1)).to(value)

    def gather(self, part: Tensor, dim: int = 0) -> Tensor:
        counts = self.counts(part.shape[dim])
        before, after = sum(counts[: self.rank]), sum(counts[self.rank + 1 :])
        # Nothing but zeros is added to a row, so its bits are those it had.
        shape = [*part.shape]
        around = [part.new_zeros([*shape[:dim], n, *shape[dim + 1 :]]) for n in (before, after)]
        return self.total(torch.cat([around[0], part, around[1]], dim))

    def number(self, count: int) -> int:
        return sum(self.counts(count))

    def most(self, count: int) -> int:
        return max(self.counts(count))

    def first(self, said: T | None) -> T | None:
        return next((one for one in self.each(said) if one is not None), None)

    def over(self, value: T, how: "Callable[[Processes], T]") -> T:
        return how(self)

    def backward(self, loss: Tensor, params: Iterable[tuple[str, Tensor]]) -> None:
        named = dict(params)
        before = {name: param.grad for name, param in named.items()}
        for param in named.values():
            param.grad = None
        if loss.requires_grad:
            loss.backward()
        self.reduce(named)
        for name, param in named.items():
            grad = before[name]
            if grad is not None:
                param.grad = grad if param.grad is None else grad + param.grad

    @torch.no_grad()
    def reduce(self, params: Mapping[str, Tensor]) -> None:
        grads = {name: p.grad for name, p in params.items() if p.grad is not None}
        for name, grad in self.gradients(params, grads).items():
            params[name].grad = grad

    def gradients(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        names = sorted(params)
        self.agree(names)
        having = self.added([int(name in grads) for name in names])
        asked = [name for name, count in zip(names, having, strict=True) if count]
        found: dict[str, Tensor] = {}
        for kind in dict.fromkeys((params[n].dtype, params[n].device) for n in asked):
            like = [n for n in asked if (params[n].dtype, params[n].device) == kind]
            own = [grads[n] if n in grads else torch.zeros_like(params[n]) for n in like]
            flat = self.summed(torch.cat([grad.reshape(-1) for grad in own]))
            parts = flat.split([grad.numel() for grad in own])
            for name, part in zip(like, parts, strict=True):
                found[name] = part.view_as(params[name]).clone()
        return found

    def agree(self, names: list[str]) -> None:
        """Refuses parameters that are not the same in all processes.

        Raises:
            RuntimeError: naming the first that some process lacks.
        """
        mark = zlib.crc32("\n".join(names).encode()) & 0xFFFFF
        total, squares = self.added([mark, mark**2])
        if total**2 == self.size * squares:
            return
        every = self.each(names)
        shared = set(every[0]).intersection(*every)
        name = min({n for each in every for n in each} - shared)
        having = [rank for rank, each in enumerate(every) if name in each]
        raise RuntimeError(
            f"parameter {name!r} is in processes {having} of {self.size} alone: let all ask for "
            "the same parameters at each step"
        )

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        several = [*tensors]
        kinds = self.each([(tuple(t.shape), str(t.dtype)) for t in several])
        if any(kind != kinds[0] for kind in kinds):
            counts = [len(kind) for kind in kinds]
            raise RuntimeError(
                f"the {self.size} processes hold {counts} parameters and buffers, of other "
                "shapes: build the same model, guide and objective in each"
            )
        with torch.no_grad():
            for tensor in several:
                held = tensor.detach().to(self.device(tensor.device)).contiguous()
                dist.broadcast(held, 0)
                tensor.copy_(held)

    def on_leaving(self, undo: Callable[[], None]) -> None:
        """Has something undone when this process leaves."""
        self._leaving.append(undo)

    def leave(self) -> None:
        """Undoes what was done to share."""
        while self._leaving:
            self._leaving.pop()()

    def refuse(self, what: str, instead: str) -> None:
        raise ValueError(f"{what} does not go over {self.size} processes: {instead}")

    def shard(self, *parts: Tensor) -> Parts:
        if parts and len(parts[0]) < self.size:
            rows = "1 row" if len(parts[0]) == 1 else f"{len(parts[0])} rows"
            raise ValueError(
                f"a batch of {rows} for {self.size} processes: each needs one or more"
            )
        return tuple(part.tensor_split(self.size)[self.rank] for part in parts)


class _Total(torch.autograd.Function):
    """A sum over processes whose backward pass is a sum over processes."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, world: Processes) -> Tensor:
        ctx.world = world
        return world.summed(part)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.world.summed(grads[0]), None


_current: World = World()


def here() -> World:
    """The processes that this one is among."""
    return _current


@contextmanager
def inside(world: World) -> Iterator[World]:
    """Context in which this process is among others."""
    global _current
    before, _current = _current, world
    try:
        yield world
    finally:
        _current = before


def by_itself() -> AbstractContextManager[World]:
    """Context in which this process does for itself what all do alike."""
    world = World()
    world.among = _current.among
    return inside(world)
