"""Shifted convolutions, which see what is above and to the left, and their incremental evaluation.

A network made of these layers and of element-wise operations runs in three ways with the same
code, told apart by the shape of what it is given and by the presence of a `Cursor`:

* whole images, (n, channels, height, width), without a cursor: training;
* one row, (n, channels, 1, width), with a cursor, which remembers the rows before;
* one pixel, (n, channels), with a cursor, which also remembers the pixels before in this row.

The last two give what the first gives at that row or pixel, at the cost of one row or pixel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Cursor", "ShiftedConv2d", "Upsampling"]


class Cursor:
    """Where an incremental evaluation stands, and what its layers have to remember.

    Args:
        width: width of the image at this resolution.

    Attributes:
        row: the row being evaluated.
        column: the column being evaluated, where single pixels are.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.row = self.column = 0
        self.memory: dict[nn.Module, Any] = {}
        self.weights: dict[nn.Module, tuple[Tensor, Tensor | None]] = {}
        self._coarser: Cursor | None = None

    @property
    def coarser(self) -> "Cursor":
        """The cursor at half the resolution."""
        if self._coarser is None:
            self._coarser = Cursor(self.width // 2)
        self._coarser.row, self._coarser.column = self.row // 2, self.column // 2
        return self._coarser


class ShiftedConv2d(nn.Module):
    r"""A convolution whose kernel lies above its output, or above and to the left.

    $$y_{ij} = b + \sum_{r=0}^{h-1} \sum_{c} W_{rc} \, x_{i - r, \, j + c}$$

    where c runs from -(w - 1) / 2 to (w - 1) / 2, or from -(w - 1) to 0 with `right`. The output
    sees the input at its own position: strict shifts are made once, on the image, and not here.

    Args:
        inputs: channels read.
        outputs: channels returned.
        kernel: height h and width w.
        right: whether the kernel ends at the output's column; else w is odd and it is centred.
        stride: 1, or 2 to keep every second row and column, (0, 0) among them.
        bias: whether b is there.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        *,
        right: bool = False,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        width = kernel[1]
        if not right and width % 2 == 0:
            raise ValueError(f"a centred kernel must have an odd width, got {width}")
        # nn.Conv2d for its parameters and their initial values only: the padding is ours.
        conv = nn.Conv2d(inputs, outputs, kernel, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias
        self.kernel, self.right, self.stride = kernel, right, stride
        self.left = width - 1 if right else width // 2
        self.margins = (self.left, 0 if right else width // 2)

    def __call__(
        self, x: Tensor, cursor: Cursor | None = None, add: Tensor | None = None
    ) -> Tensor:
        if cursor is None:
            return super().__call__(x, None, add)
        # A module's own call, with its hooks, costs more than the product of one pixel.
        return self._pixel(x, cursor, add) if x.dim() == 2 else self.forward(x, cursor, add)

    def forward(
        self, x: Tensor, cursor: Cursor | None = None, add: Tensor | None = None
    ) -> Tensor:
        """The convolution, plus `add` where that is given."""
        if cursor is None and self.kernel != (1, 1):
            x = F.pad(x, (*self.margins, self.kernel[0] - 1, 0))
        elif cursor is not None:
            if x.dim() == 2:
                return self._pixel(x, cursor, add)
            x = self._rows(x, cursor)
        # One row has its rows above in the window, and whatever its stride one output.
        y = F.conv2d(x, self.weight, self.bias, self.stride)
        return y if add is None else y.add_(add)

    def window(self, x: Tensor, cursor: Cursor) -> Tensor:
        """What the kernel sees at the new row or pixel; remembers it for the next ones.

        Args:
            x: (n, inputs, 1, width) or (n, inputs).
            cursor: where that row or pixel is.

        Returns:
            Tensor of shape (n, inputs, h, width + margins) or (n, h * w * inputs).
        """
        if x.dim() == 4:
            return self._rows(x, cursor)
        return x if self.kernel == (1, 1) else self._pixels(x, cursor)

    def _rows(self, x: Tensor, cursor: Cursor) -> Tensor:
        x = F.pad(x, self.margins)
        above = self.kernel[0] - 1
        if not above:
            return x
        rows: list[Tensor] = cursor.memory.setdefault(self, [torch.zeros_like(x)] * above)
        window = torch.cat([*rows, x], 2)
        rows[:] = [*rows[1:], x]
        return window

    def _pixels(self, x: Tensor, cursor: Cursor) -> Tensor:
        height, width = self.kernel
        j = cursor.column
        if self not in cursor.memory:
            outside = [torch.zeros_like(x)] * (self.left + cursor.width)
            cursor.memory[self] = [outside] * height
        rows: list[list[Tensor]] = cursor.memory[self]
        if j == 0:
            rows[:] = [*rows[1:], rows[0][: self.left]]
        rows[-1].append(x)
        return torch.cat([t for row in rows for t in row[j : j + width]], 1)

    def _pixel(self, x: Tensor, cursor: Cursor, add: Tensor | None) -> Tensor:
        if self.kernel != (1, 1):
            x = self._pixels(x, cursor)
        found = cursor.weights.get(self)
        if found is None:
            weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
            found = cursor.weights[self] = weight, self.bias
        weight, bias = found
        if bias is None:
            return x @ weight if add is None else torch.addmm(add, x, weight)
        y = torch.addmm(bias, x, weight)
        return y if add is None else y.add_(add)


class Upsampling(nn.Module):
    """Twice the resolution, each position a linear map of the coarse one that covers it.

    Args:
        inputs: channels read.
        outputs: channels returned.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        conv = nn.ConvTranspose2d(inputs, outputs, 2, 2)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor | None, cursor: Cursor | None = None) -> Tensor:
        """Upsamples.

        Args:
            x: coarse features, (n, inputs, height / 2, width / 2); with a cursor one coarse row
                or pixel, or None where there is no new one, at odd rows and columns.
            cursor: the cursor of the fine resolution.
        """
        if cursor is None:
            assert x is not None
            return F.conv_transpose2d(x, self.weight, self.bias, 2)
        if x is not None and x.dim() == 4:
            cursor.memory[self] = x
        elif x is not None:
            coarse: list[Tensor] = cursor.memory.setdefault(self, [])
            if cursor.column == 0:
                coarse.clear()
            coarse.append(x)
        seen: Tensor | list[Tensor] = cursor.memory[self]
        below, right = cursor.row % 2, cursor.column % 2
        if isinstance(seen, Tensor):
            kernel = self.weight[:, :, below : below + 1]
            return F.conv_transpose2d(seen, kernel, self.bias, (1, 2))
        found = cursor.weights.get(self)
        if found is None:
            weight = self.weight.permute(2, 3, 0, 1).contiguous()
            found = cursor.weights[self] = weight, self.bias
        weight, bias = found
        y = seen[cursor.column // 2] @ weight[below, right]
        return y if bias is None else y + bias
