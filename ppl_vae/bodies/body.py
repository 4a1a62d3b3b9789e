"""What all bodies and their users share."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Activation", "Body", "activation_module", "apply_body", "positive"]

Body = Callable[[torch.Size, torch.Size], nn.Module]
"""A factory of networks: `(inputs, outputs) -> nn.Module`."""

Activation = Literal["elu", "gelu", "leaky_relu", "relu", "silu", "softplus", "tanh"]
"""Names of the non-linearities a body may use."""

_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def activation_module(name: Activation) -> nn.Module:
    """A new module for the named non-linearity.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation {name!r} is none of {', '.join(sorted(_ACTIVATIONS))}")
    return _ACTIVATIONS[name]()


def apply_body(network: nn.Module, x: Tensor, inputs: Sequence[int]) -> Tensor:
    """Applies a network that knows one batch dimension to any number of them.

    Args:
        network: maps (n, *inputs) to (n, *outputs).
        x: tensor of shape (*batch, *inputs); `batch` may be empty.
        inputs: the event shape the network reads.

    Returns:
        Tensor of shape (*batch, *outputs).

    Raises:
        ValueError: if the last dimensions of x are not `inputs`.
    """
    split = x.dim() - len(inputs)
    if split < 0 or x.shape[split:] != tuple(inputs):
        raise ValueError(
            f"expected a tensor of shape (..., {', '.join(map(str, inputs))}), "
            f"got {tuple(x.shape)}"
        )
    batch = x.shape[:split]
    y: Tensor = network(x.reshape(math.prod(batch), *inputs))
    return y.reshape(*batch, *y.shape[1:])


def positive(raw: Tensor, at_zero: float, floor: float = 1e-6) -> Tensor:
    r"""A positive number from an unconstrained one, `at_zero` where raw = 0.

    $$s = \epsilon + \log(1 + e^{r + c}), \qquad s(0) = s_0$$

    Softplus and not the exponential, because it grows linearly: one large step of the optimiser
    cannot overflow. Below one it is the exponential all the same, so small scales move by
    factors. The floor keeps $-\log s$ and the density of narrow distributions finite.

    Args:
        raw: unconstrained tensor.
        at_zero: value at raw = 0, above `floor`.
        floor: smallest value.
    """
    return floor + nn.functional.softplus(raw + inverse_softplus(at_zero - floor))


def check_widths(owner: object, widths: Sequence[int]) -> None:
    """Refuses layers of no units.

    Raises:
        ValueError: naming the body and the widths.
    """
    if min(widths, default=1) < 1:
        raise ValueError(
            f"{type(owner).__name__}: layers of {list(widths)} units: give 1 or more each"
        )


def inverse_softplus(y: float) -> float:
    """The x with log(1 + exp(x)) = y.

    Raises:
        ValueError: if y is not positive.
    """
    if not y > 0:
        raise ValueError(f"a start value must lie above its floor (difference {y:g})")
    return y + math.log(-math.expm1(-y))
