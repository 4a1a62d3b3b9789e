"""Batch normalisation over the rows of several processes, on the CPU as on a GPU.

`torch.nn.SyncBatchNorm` refuses the CPU. Here the moments are sums over processes that pass
gradients, so that a batch is normalised as one process would do it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ppl_vae.world import here

__all__ = ["part_norms", "share_norms"]


class _Shared(_BatchNorm):
    """A batch norm whose moments are those of all processes."""

    def forward(self, input: Tensor) -> Tensor:
        uses_batch = self.training or self.running_mean is None
        if here().size == 1 or not uses_batch:
            return super().forward(input)
        self._check_input_dim(input)
        dims = [dim for dim in range(input.dim()) if dim != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        count = here().number(input.numel() // input.shape[1])
        mean = here().total(input.sum(dims)) / count
        centred = input - mean.reshape(shape)
        variance = here().total(centred.square().sum(dims)) / count
        self._move(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        found = centred * (variance + self.eps).rsqrt().reshape(shape)
        if self.weight is not None:
            found = found * self.weight.reshape(shape) + self.bias.reshape(shape)
        return found

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        if not self.training or self.running_mean is None:
            return
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            share = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


class _Shared1d(_Shared, nn.BatchNorm1d):
    pass


class _Shared2d(_Shared, nn.BatchNorm2d):
    pass


class _Shared3d(_Shared, nn.BatchNorm3d):
    pass


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _Shared1d,
    nn.BatchNorm2d: _Shared2d,
    nn.BatchNorm3d: _Shared3d,
}


def share_norms(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Lets batch norms take the moments of all processes, in place, and returns those changed.

    Subclasses of torch's are left as they are, and so is `torch.nn.SyncBatchNorm`.
    """
    changed = [module for module in modules if type(module) in _KINDS]
    for module in changed:
        module.__class__ = _KINDS[type(module)]
    return changed


def part_norms(modules: Iterable[nn.Module]) -> None:
    """Undoes `share_norms`."""
    kinds = {shared: plain for plain, shared in _KINDS.items()}
    for module in modules:
        module.__class__ = kinds.get(type(module), type(module))
