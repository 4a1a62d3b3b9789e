"""The states of random generators: torch's, and all that a process has."""

import random
from collections.abc import Mapping
from typing import Any

import numpy
import torch

from ppl_vae.world import Processes, here

__all__ = ["Noise", "put_back", "streams"]


def streams() -> dict[str, Any]:
    """The states of all random streams: Python's, NumPy's, torch's on the CPU and on each GPU."""
    version, words, gauss = random.getstate()
    name, key, *place = numpy.random.get_state(legacy=True)  # type: ignore[misc]  # noqa: NPY002
    on_gpus = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": (version, torch.tensor(words), gauss),
        "numpy": (name, torch.tensor(numpy.asarray(key).astype(numpy.int64)), *place),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if on_gpus else [],
    }


def put_back(states: Mapping[str, Any]) -> None:
    """Sets all random streams to states that `streams` gave.

    A GPU that is not here, or was not there, draws as its seed says.
    """
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, key, *place = states["numpy"]
    numpy.random.set_state((name, key.cpu().numpy().astype(numpy.uint32), *place))  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    for gpu, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
        torch.cuda.set_rng_state(state.cpu(), gpu)


class Noise:
    """The states of torch's generators, of the CPU and of the GPU a batch lies on, to go back to.

    With several processes, also of what all draw alike.

    Args:
        device: of the batch.
    """

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        self._cpu = torch.get_rng_state()
        # these lie on the host: reading them waits for nothing
        self._gpu = [torch.cuda.get_rng_state(gpu) for gpu in self.devices]
        alike: list[torch.Tensor] = []
        self._alike = here().over(alike, lambda world: world.stream or alike)

    def same(self, other: "Noise") -> bool:
        """Whether both are of the same states."""
        return all(map(torch.equal, self._all, other._all))

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        for gpu, noise in zip(self.devices, self._gpu, strict=True):
            torch.cuda.set_rng_state(noise, gpu)
        here().over(None, self._restore)

    def _restore(self, world: Processes) -> None:
        world.stream = self._alike or world.stream

    @property
    def _all(self) -> list[torch.Tensor]:
        return [self._cpu, *self._gpu, *self._alike]
