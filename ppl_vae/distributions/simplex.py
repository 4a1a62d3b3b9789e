"""Distributions on the simplex."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["RelaxedOneHotCategorical"]


class RelaxedOneHotCategorical(dist.RelaxedOneHotCategorical):
    """The relaxed one-hot distribution, with draws that stay inside the simplex.

    At low temperatures PyTorch's draws underflow to 0, where the log-density is NaN, and at many
    classes they miss the sum 1 by more than its own check allows.
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        x = super().rsample(sample_shape)
        x = x.clamp_min(torch.finfo(x.dtype).tiny)
        return x / x.sum(-1, keepdim=True)
