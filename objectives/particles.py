"""Whether one run of a pair, with a dimension more on the left, is as many runs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.program.handlers import SetValues
from ppl_vae.program.modules import Program, modules_of
from ppl_vae.program.reading import Reading
from ppl_vae.program.sites import Site
from ppl_vae.world import by_itself, here

__all__ = ["Particles"]

_PAIRS = 4

Run = Callable[[Program, bool], tuple[Reading, Tensor, Tensor]]
"""Runs a pair with a guide, of all particles at once or of one: the reading, and the log-densities
of model and guide by particle and row."""


class Particles:
    """Finds out whether a pair broadcasts over particles, by runs of it, once for each pair.

    A run of all particles is held against a run at the values of its first and of its last
    particle: it broadcasts if the log-densities by row agree to rounding. Noise and buffers are as
    they were. Batch normalisation, whose statistics are of all that it is given, never does.
    """

    def __init__(self) -> None:
        self._pair: tuple[Program, Program] | None = None
        self._found = False
        self._tried = 0

    def __getstate__(self) -> dict[str, Any]:
        return vars(Particles())  # a pair need not be picklable

    def broadcast(
        self,
        model: Program,
        guide: Program,
        tensors: Sequence[Tensor],
        run: Run,
    ) -> bool:
        """Whether the pair broadcasts.

        Args:
            model: the model.
            guide: the guide.
            tensors: among the arguments, for their devices.
            run: of the pair.
        """
        if self._pair != (model, guide):
            self._pair, self._found = (model, guide), False
            self._tried += 1
            if self._tried <= _PAIRS:
                with by_itself():  # of a process's own rows, whatever becomes of the others
                    obstacle = self._obstacle(model, guide, tensors, run)
                self._found = here().first(obstacle) is None
        return self._found

    def _obstacle(
        self,
        model: Program,
        guide: Program,
        tensors: Sequence[Tensor],
        run: Run,
    ) -> str | None:
        modules = modules_of(model, guide).values()
        parts = [part for module in modules for part in module.modules()]
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in parts):
            return "batch normalisation"
        buffers = [(b, b.clone()) for module in modules for b in module.buffers()]
        gpus = sorted({t.device.index or 0 for t in tensors if t.device.type == "cuda"})
        with torch.no_grad(), torch.random.fork_rng(gpus):
            one, *_ = run(guide, False)
            names = [*one.latent, *one.auxiliary]
            try:
                many, *densities = run(guide, True)
                for k in (0, -1):
                    values = {n: _of(k, many.guide_sites[n], one.guide_sites[n]) for n in names}
                    _, *single = run(SetValues(values)(guide), False)
                    if not all(_same(a[k], b[0]) for a, b in zip(densities, single, strict=True)):
                        return "other densities"
            except Exception as error:  # of whatever kind: such a pair runs by particle
                return str(error) or type(error).__name__
            finally:
                for buffer, value in buffers:
                    buffer.copy_(value)
        return None


def _of(k: int, many: Site, one: Site) -> Tensor:
    """The value of a particle, in the shape that it has in a run of its own."""
    if many.draws is None:
        return many.value
    return many.value.movedim(many.draws.dim - many.event_dim, 0)[k].reshape(one.value.shape)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether log-densities agree to a thousand roundings."""
    if a.shape != b.shape:
        return False
    eps = 1000 * torch.finfo(a.dtype).eps
    return torch.allclose(a, b, rtol=eps, atol=eps)
