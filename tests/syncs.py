"""A probe for code that waits for the device."""

from typing import Any

import pyro
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Syncs(TorchDispatchMode):
    """Raises where a tensor's data would be read by the host."""

    WAITING = (
        "_local_scalar_dense",
        "nonzero",
        "is_nonzero",
        "equal",
        "item",
        "unique",
        "masked_select",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, f"{name} waits for the device"
        if name == "index":
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "boolean index"
        return func(*args, **(kwargs or {}))


def no_waiting(objective: Any, pair: Any) -> None:
    """Holds that a loss of a pair with arguments is computed without a look at the device."""
    with pyro.validation_enabled(False), Syncs():
        objective.differentiable_loss(pair.model, pair.guide, *pair.args)
