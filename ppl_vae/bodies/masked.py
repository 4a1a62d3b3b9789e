"""A body that reads rows with missing values."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppl_vae.bodies.body import Body
from ppl_vae.bodies.mlp import MLP

__all__ = ["Masked"]


class Masked(nn.Module):
    r"""Another body that sees a fill value where one is missing (NaN), and which ones are there.

    Twice the entries of x's first dimension go in: x, filled, and 1 where a value is, else 0.

    Args:
        inputs: event shape read, of one dimension or more.
        outputs: event shape returned.
        body: factory of the network that reads both.
        fill: what stands in a missing value's place.

    Shape:
        (n, *inputs) to (n, *outputs).

    References:
        Collier, Nazabal and Williams (2020), VAEs in the presence of missing data,
        arXiv:2006.05301.

    Example:
        >>> network = Masked((2,), (3,))
        >>> network(torch.tensor([[1.0, torch.nan]])).isfinite().all()
        tensor(True)
    """

    reads_missing = True

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        body: Body = MLP,
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        first, *rest = inputs
        self.fill = fill
        self.network = body(torch.Size([2 * first, *rest]), torch.Size(outputs))

    def forward(self, x: Tensor) -> Tensor:
        missing = x.isnan()
        return self.network(torch.cat([x.masked_fill(missing, self.fill), (~missing).to(x)], 1))
