"""The states of torch's generators."""

import torch

__all__ = ["Noise"]


class Noise:
    """The states of torch's generators, of the CPU and of the GPU a batch lies on, to go back to.

    Args:
        device: of the batch.
    """

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        self._cpu = torch.get_rng_state()
        # these lie on the host: reading them waits for nothing
        self._gpu = [torch.cuda.get_rng_state(gpu) for gpu in self.devices]

    def same(self, other: "Noise") -> bool:
        """Whether both are of the same states."""
        return all(map(torch.equal, [self._cpu, *self._gpu], [other._cpu, *other._gpu]))

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        for gpu, noise in zip(self.devices, self._gpu, strict=True):
            torch.cuda.set_rng_state(noise, gpu)
