"""Whether scales and masks of two sites agree."""

from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ppl_vae.program.sites import Site

__all__ = ["check_match", "same"]


def check_match(model: Site, guide: Site) -> None:
    """Refuses a latent whose scale or mask differs between model and guide."""
    for key in ("scale", "mask"):
        a, b = getattr(model, key), getattr(guide, key)
        if not same(a, b):
            raise ValueError(
                f"latent site {model.name!r} has another {key} in the model than in the guide "
                f"({_describe(a)} against {_describe(b)}): put both under the same poutine.{key} "
                "and plate"
            )


def same(a: Any, b: Any) -> bool:
    """Whether two scales or masks are equal; two tensors' values are compared in validation."""
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        # Comparing values waits for the device.
        return not is_validation_enabled() or (a.shape == b.shape and bool(torch.eq(a, b).all()))
    if a is None or b is None:
        return False
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return not is_validation_enabled() or bool((torch.as_tensor(a) == b).all())
    return a == b


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else str(value)
