"""Pairs at rows with missing values: left out by the model, filled in for the guide."""

from typing import Any

import torch
from torch import Tensor

from ppl_vae.program.missing import Marginalised
from ppl_vae.program.modules import Program

__all__ = ["filled", "with_missing"]


def filled(args: tuple[Any, ...], fill: Tensor | None = None) -> tuple[Any, ...]:
    """Arguments with missing values replaced.

    Args:
        args: of a pair, rows first.
        fill: what the first argument's are replaced by, of the shape of a row or one number; by
            default, and in all others, the mean over the rows that have one, else 0.
    """

    def full(part: Any, value: Tensor | None) -> Any:
        if not isinstance(part, Tensor) or not part.is_floating_point() or not part.isnan().any():
            return part
        value = part.nanmean(0).nan_to_num(0.0) if value is None else value.to(part)
        return torch.where(part.isnan(), value, part)

    return tuple(full(part, fill if i == 0 else None) for i, part in enumerate(args))


def with_missing(
    model: Program, guide: Program, fill: Tensor | None = None
) -> tuple[Program, Program]:
    """A pair that takes rows with NaN: the model leaves them out, the guide sees them filled.

    The guide is then no longer what it was trained to be, and as a proposal it is as good as the
    filled rows are like whole ones.

    Args:
        model: the model; any Pyro callable, which does nothing with its data but observe them.
        guide: the guide.
        fill: what the guide sees, see `filled`.
    """

    def guide_of_filled(*args: Any) -> Any:
        return guide(*filled(args, fill))

    guide_of_filled.__wrapped__ = guide  # type: ignore[attr-defined]
    return Marginalised()(model), guide_of_filled
