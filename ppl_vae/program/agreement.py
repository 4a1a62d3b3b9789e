"""Whether scales and masks of two sites agree, and the rows of two plates."""

from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.program.sites import Site

__all__ = ["SameRows", "check_match", "same"]


class SameRows(Messenger):
    """Notes plates of a model whose `subsample` is not that of the guide's plate of their name.

    A replay gives the model the guide's indices, so the trace shows no difference, while the
    data were taken at the model's: each row would be fitted with another row's latent. It
    goes inside the replay.

    Args:
        guide: the guide's trace.
    """

    def __init__(self, guide: Trace) -> None:
        super().__init__()
        self._guide, self._differ = guide, list[str]()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None or msg["name"] not in self._guide or not site_is_subsample(msg):
            return
        theirs = self._guide.nodes[msg["name"]]["value"]
        if not _are_same_rows(msg["value"], theirs):
            self._differ.append(msg["name"])

    def check(self) -> None:
        """Refuses plates that differ; to be called outside the traces, which add to errors.

        Raises:
            ValueError: naming the plate and what to give the guide.
        """
        for name in self._differ:
            raise ValueError(
                f"plate {name!r} has other rows in the guide than in the model, which was given "
                f"its own: write pyro.plate({name!r}, ..., subsample=...) in the guide too, or "
                "give an automatic guide create_plates="
            )


def _are_same_rows(ours: Any, theirs: Any) -> bool:
    if ours is theirs:
        return True
    if len(ours) != len(theirs):
        return False
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    # reading values of another device waits for it
    if not is_validation_enabled() and (ours.device.type, theirs.device.type) != ("cpu", "cpu"):
        return True
    return torch.equal(ours.cpu(), theirs.cpu())


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
