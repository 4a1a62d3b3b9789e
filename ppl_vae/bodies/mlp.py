"""Fully connected bodies."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ppl_vae.bodies.body import Activation, activation_module, check_widths

__all__ = ["MLP"]


class MLP(nn.Module):
    """Fully connected network.

    Args:
        inputs: event shape read; flattened.
        outputs: event shape returned.
        hidden: widths of the hidden layers; none makes the map affine.
        activation: non-linearity after each hidden layer.

    Shape:
        (n, *inputs) to (n, *outputs).

    Example:
        >>> import torch
        >>> MLP((1, 28, 28), (10,), hidden=(300,))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        hidden: Sequence[int] = (512, 512),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        check_widths(self, hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(inputs)
        for n in hidden:
            layers += [nn.Linear(width, n), activation_module(activation)]
            width = n
        layers += [nn.Linear(width, math.prod(outputs)), nn.Unflatten(1, tuple(outputs))]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
