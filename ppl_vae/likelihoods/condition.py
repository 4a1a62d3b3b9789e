"""What z becomes in an autoregressive likelihood: biases for every layer, and images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppl_vae.bodies.body import Body
from ppl_vae.likelihoods.shifted import Cursor, ShiftedConv2d

__all__ = ["Condition", "Maps"]


class Condition(nn.Module):
    """Turns z into one bias for each channel of each layer and, where asked for, into images.

    Args:
        dim: dimension d of z.
        biases: how many biases.
        maps: how many images, of the height and width of x; 0 for none.
        size: event shape of x.
        body: factory of the network that makes the images.

    Shape:
        z `(n, d)` to biases `(n, biases)` and images `(n, maps, height, width)`, or None.
    """

    def __init__(self, dim: int, biases: int, maps: int, size: Sequence[int], body: Body) -> None:
        super().__init__()
        self.biases = nn.Linear(dim, biases)
        shape = torch.Size((maps, *size[-2:]))
        self.maps = body(torch.Size([dim]), shape) if maps else None

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.biases(z), None if self.maps is None else self.maps(z)


class Maps(nn.Module):
    """How z's images enter the first layers of the vertical and the horizontal stack.

    Args:
        maps: how many images.
        outputs: channels of either layer.
    """

    def __init__(self, maps: int, outputs: int) -> None:
        super().__init__()
        self.read = ShiftedConv2d(maps, 2 * outputs, bias=False)

    def forward(self, maps: Tensor, cursor: Cursor | None) -> tuple[Tensor, ...]:
        """What is added to the vertical and to the horizontal layer: whole images or one row."""
        if cursor is not None:
            maps = maps[:, :, cursor.row : cursor.row + 1]
        added: tuple[Tensor, ...] = self.read(maps).chunk(2, 1)
        return added
