"""Codes so far out that a kernel pulls none of them."""

import warnings

from torch import Tensor

from ppl_vae.objectives.divergences.divergence import Divergence
from ppl_vae.objectives.divergences.weighting import normalised

__all__ = ["NO_REACH", "is_out_of_reach", "warn_out_of_reach"]

NO_REACH = 1e-6
"""The mean kernel that counts as none, over that between codes of the prior."""

# The share of codes so far out at which it is no stray datum.
_FAR_SHARE = 0.1


def is_out_of_reach(near: Tensor, own: Tensor, weights: Tensor) -> Tensor:
    """Whether a share of rows has next to no kernel with the prior, a 0-dim truth value.

    Args:
        near: each row's weighted kernels with the prior, summed, `(n,)`; they add up to the mean.
        own: the mean kernel between two codes of the prior.
        weights: the rows' weights, `(n,)`.
    """
    share = normalised(weights.detach())
    far = near.detach() <= NO_REACH * own.detach() * share
    return (share * far).sum() > _FAR_SHARE


def warn_out_of_reach(divergence: Divergence, name: str) -> None:
    """Warns that codes have left the reach of a divergence's kernel."""
    warnings.warn(
        f"codes of {name!r} are beyond the reach of {type(divergence).__name__}'s kernel: "
        "it is flat there and pulls none of them to the prior. Use a divergence that reaches far, "
        "such as Energy() or a kernel of wide scales in MultiScale(); and standardise the data, "
        "or lower the learning rate",
        stacklevel=5,
    )
