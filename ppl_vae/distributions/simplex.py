"""Distributions on the simplex."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["RelaxedOneHotCategorical"]

_drawn = WeakIdKeyDictionary()
"""Draws that are still in memory, by their storage: copies of them, and their logarithms."""


class RelaxedOneHotCategorical(dist.RelaxedOneHotCategorical):
    """The relaxed one-hot distribution, with draws that stay inside the simplex.

    At low temperatures PyTorch's draws underflow to 0, where the log-density is NaN, and at many
    classes they miss the sum 1 by more than its own check allows.

    The density depends on coordinates far too small for floating point, through their logarithms.
    Those of a draw are remembered as long as it lives: it and its views are scored by them, under
    this distribution and any other of the class. A copy is scored by the values it has.
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        log_x = self.base_dist.rsample(sample_shape).contiguous()
        info = torch.finfo(log_x.dtype)
        # The floor is no part of the gradient, and leaves room for that of the logarithm.
        floor = log_x.detach().clamp_min(math.log(info.tiny / info.eps))
        x = (log_x + (floor - log_x.detach())).exp()
        x = x / x.detach().sum(-1, keepdim=True)
        _drawn[x.untyped_storage()] = x.detach().clone(), log_x.detach()
        return x

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_x = _log(value)
        return self.base_dist.log_prob(log_x) - log_x.sum(-1)


def _log(value: Tensor) -> Tensor:
    """The logarithm; of what is still as it was drawn, the remembered one."""
    log = value.log()
    try:
        found = _drawn.get(value.untyped_storage())
    except NotImplementedError:  # inside a transform of torch.func
        return log
    if found is None:
        return log
    x, log_x = (t.as_strided(value.shape, value.stride(), value.storage_offset()) for t in found)
    unchanged = (value == x).all(-1, keepdim=True)
    return log + torch.where(unchanged, log_x - log.detach(), 0.0)
