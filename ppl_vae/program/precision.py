"""Networks in half the bits, and densities in all of them."""

from contextlib import ExitStack
from typing import Any, Literal

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

__all__ = ["Halved", "Precision"]

Precision = Literal["full", "bf16"]
"""In what the networks of a pair are computed."""


class Halved(Messenger):
    """Computes matrix products and convolutions of a program's modules in bfloat16.

    Weights stay float32, and what a module returns is float32 again, so that whatever a program
    makes of it (distributions, their densities, the kernels of a divergence) is.

    Args:
        device: where the program runs.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device, self._open = device, ExitStack()

    def __enter__(self) -> "Halved":
        # Casts of weights are not kept, as a recorded step takes them for its own.
        cast = torch.autocast(self._device.type, torch.bfloat16, cache_enabled=False)
        self._open.enter_context(cast)
        self._open.callback(register_module_forward_hook(_widened).remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        self._open.close()
        return super().__exit__(*error)

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        if isinstance(value, Tensor) and value.dtype == torch.bfloat16:
            raise ValueError(
                f"site {msg['name']!r} is drawn in bfloat16, by a function that is no module's: "
                "make its distribution of floats, as by .float(), or leave precision='full'"
            )


def _widened(module: nn.Module, given: Any, found: Any) -> Any:
    """What a module returns, in float32."""
    if isinstance(found, Tensor):
        return found.float() if found.dtype == torch.bfloat16 else None
    if isinstance(found, tuple) and any(isinstance(part, Tensor) for part in found):
        made = [
            p.float() if isinstance(p, Tensor) and p.dtype == torch.bfloat16 else p for p in found
        ]
        return type(found)(*made) if hasattr(found, "_fields") else tuple(made)
    return None
