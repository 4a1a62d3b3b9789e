"""Several processes while a step is traced: what their collectives become in a graph.

A trace talks to nobody, so that a process whose program cannot be traced leaves no other waiting.
Sums are nodes of the graph, which are carried out when it runs; what hosts exchange, as how many
rows each has, is what came of it in an eager step with the same arguments.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from ppl_vae.world import Processes, here

__all__ = ["Traced", "Untraceable"]

T = TypeVar("T")
R = TypeVar("R")

# What others have is in what these return, as noise is in a draw: no graph may leave one out,
# take it for a constant, or use one result for two.
_TAGS = (torch.Tag.nondeterministic_seeded,)
_OPS = torch.library.Library("ppl_vae", "DEF")
_OPS.define("summed(Tensor part) -> Tensor", tags=_TAGS)
_OPS.define("alike(bool begins) -> ()", tags=_TAGS)


class Untraceable(RuntimeError):
    """What no graph of several processes does."""


class Traced(Processes):
    """The processes that a step is traced among.

    Args:
        world: the processes.
        notes: what their hosts have exchanged in an eager step, in order.
    """

    def __init__(self, world: Processes, notes: Sequence[tuple[Any, Any]]) -> None:
        vars(self).update(vars(world))
        self._rest = iter(notes)

    def summed(self, part: Tensor) -> Tensor:
        found: Tensor = torch.ops.ppl_vae.summed(part.detach())
        return found

    def exchanged(self, said: T, how: Callable[[T], R]) -> R:
        then, found = next(self._rest, (None, None))
        if then != said:
            raise Untraceable("processes do not tell each other the same at each step")
        return found  # type: ignore[return-value]

    @contextmanager
    def alike(self, moving: bool = True) -> Iterator[None]:
        torch.ops.ppl_vae.alike(True)
        yield
        torch.ops.ppl_vae.alike(False)

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        raise Untraceable("the pair is another at each step")


def _summed(part: Tensor) -> Tensor:
    world = here()
    assert isinstance(world, Processes)
    return part.clone() if isinstance(world, Traced) else world.summed(part)


_alike: list[AbstractContextManager[Any]] = []


def _turn(begins: bool) -> None:
    """Begins or ends what all draw alike."""
    world = here()
    if isinstance(world, Traced):
        return
    if begins:
        _alike.append(world.alike())
        _alike[-1].__enter__()
    else:
        _alike.pop().__exit__(None, None, None)


_OPS.impl("summed", _summed, "CompositeExplicitAutograd")
_OPS.impl("alike", _turn, "CompositeExplicitAutograd")
