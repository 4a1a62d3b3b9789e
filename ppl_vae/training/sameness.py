"""Whether two steps from one state are the same."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ppl_vae.objectives import Divergence, Objective
from ppl_vae.training.noise import Noise, put_back, streams
from ppl_vae.training.recording import Recording, tensors_of

__all__ = ["State", "undone", "up_to_rounding"]


@contextmanager
def undone(objective: Objective, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Context after which what a step moves, besides terms, is what and where it was."""
    noise = streams()
    parts = [p for p in objective.modules() if isinstance(p, Divergence | Objective)]
    states = [part.state() for part in parts]
    buffers = [buffer for module in modules for buffer in module.buffers()]
    tensors = [t for t in (*buffers, *tree_leaves(states)) if isinstance(t, Tensor)]
    values = [t.detach().clone() for t in tensors]
    try:
        yield
    finally:
        put_back(noise)
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for part, state in zip(parts, states, strict=True):
            part.load_state(state)


class State:
    """What a step moves besides the parameters: the tensors a graph writes to, and the noise."""

    def __init__(self, made: Recording, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = tensors_of(args, kwargs)
        self._noise = Noise(tensors[0].device if tensors else torch.device("cpu"))
        self._tensors = made.kept
        self._values = [t.clone() for t in made.kept]

    def restore(self) -> None:
        """Has it as it was."""
        self._noise.restore()
        with torch.no_grad():
            for tensor, value in zip(self._tensors, self._values, strict=True):
                tensor.copy_(value)

    def difference(
        self, other: "State", same: Callable[[Tensor, Tensor], bool] = torch.equal
    ) -> str | None:
        """What differs, in words."""
        if not all(map(same, self._values, other._values)):
            return "a buffer or queue"
        return None if self._noise.same(other._noise) else "the noise it draws"


def up_to_rounding(outputs: Iterable[Tensor]) -> Callable[[Tensor, Tensor], bool]:
    """Whether two tensors agree to 1,000 roundings of the larger, or ten of the largest output.

    Sums in another order differ by some roundings of their largest partial sum.
    """
    largest = max(float(o.abs().max()) for o in outputs if o.is_floating_point() and o.numel())

    def near(a: Tensor, b: Tensor) -> bool:
        a, b = a.detach(), b.detach()
        if not a.is_floating_point():
            return torch.equal(a, b)
        if not a.numel():
            return True
        eps = torch.finfo(a.dtype).eps
        size = float(torch.maximum(a.abs(), b.abs()).max())
        return float((a - b).abs().max()) <= eps * (1000 * size + 10 * largest)

    return near
