"""What is done to the values of a data set, and undone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from ppl_vae.data.moments import Moments
from ppl_vae.documents import record

__all__ = ["Normalise", "Transform"]

Normalise = Literal["none", "bytes", "standardise", "minmax"]
"""What is done to the values of rows."""


@dataclass(frozen=True)
class Transform:
    r"""$(x - a) / b$, with one $a$ and $b$, or one of each for every column.

    Args:
        kind: "none" (a = 0, b = 1), "bytes" (a = 0, b = 255), "standardise" (mean and standard
            deviation) or "minmax" (least value and range).
        shift: a.
        scale: b; 1 for a column that does not vary.

    Example:
        >>> rows = torch.tensor([[0.0, 5.0], [4.0, 5.0]])
        >>> transform = Transform.of("minmax", rows)
        >>> transform.apply(rows).tolist()
        [[0.0, 0.0], [1.0, 0.0]]
        >>> transform.undo(transform.apply(rows)).tolist()
        [[0.0, 5.0], [4.0, 5.0]]
    """

    kind: Normalise = "none"
    shift: Sequence[float] = (0.0,)
    scale: Sequence[float] = (1.0,)

    @classmethod
    def of(cls, kind: Normalise, rows: Tensor | Moments) -> Self:
        """The transform by the statistics of training rows, or of what is known of them.

        Columns have their own where rows are vectors; images have one of each for all pixels.
        NaN is left out of the statistics; a column of nothing else stays as it is.

        Raises:
            ValueError: if `kind` is no such word.
        """
        if kind not in get_args(Normalise):
            raise ValueError(f"normalise={kind!r}: give one of {', '.join(get_args(Normalise))}")
        if kind == "none":
            return cls()
        if kind == "bytes":
            return cls(kind, (0.0,), (255.0,))
        if isinstance(rows, Moments):
            low, high, mean, sd = rows.columns()
            low, spread = (low, high - low) if kind == "minmax" else (mean.nan_to_num(0.0), sd)
        else:
            x = rows.double()
            x = x if x.ndim == 2 else x.reshape(-1, 1)
            missing = x.isnan()
            if kind == "minmax":
                low = x.masked_fill(missing, torch.inf).amin(0)
                spread = x.masked_fill(missing, -torch.inf).amax(0) - low
            else:
                low = x.nanmean(0).nan_to_num(0.0)
                spread = (x - low).square().nanmean(0).sqrt()
        if kind == "minmax":
            low = low.where(low.isfinite(), 0)
        else:
            # the deviation of a constant is rounding error alone
            spread = spread.where(spread > 1e-12 * low.abs(), 0)
        return cls(kind, low.tolist(), spread.where(spread > 0, 1).tolist())

    @classmethod
    def of_plain(cls, kept: Mapping[str, Any] | None) -> Self:
        """The transform that `plain` describes.

        Raises:
            ValueError: if it is no such thing.
        """
        found = cls() if kept is None else record(cls, kept, "the transform of data.json")
        if len(found.shift) != len(found.scale) or 0 in found.scale:
            raise ValueError("the transform of data.json is damaged: it cannot be undone")
        return found

    @property
    def plain(self) -> dict[str, Any]:
        """As mappings, lists and numbers."""
        return asdict(self)

    def apply(self, rows: Tensor) -> Tensor:
        """Rows as the pair takes them: floats, scaled.

        Rows are in the units of the data whatever their type: under "bytes" floats lie in
        [0, 255] too, so that some can be NaN.

        Raises:
            ValueError: for floats that lie in [0, 1] where bytes are divided by 255.
        """
        floating = rows.is_floating_point()
        if self.kind == "bytes" and floating:
            seen = rows.nan_to_num(0.0)
            if seen.any() and bool(((seen >= 0) & (seen <= 1)).all()):
                raise ValueError(
                    "all values lie in [0, 1] where the training's are bytes, which are divided "
                    "by 255: give them in [0, 255], as the results are"
                )
        if self.kind == "none":
            return rows if floating else rows.to(torch.get_default_dtype())
        return self.redo(rows)

    def redo(self, rows: Tensor) -> Tensor:
        """Rows in the units of the data, whatever their type, as floats of the pair's."""
        kept = rows.dtype if rows.is_floating_point() else torch.get_default_dtype()
        x = rows.double()
        return ((x - x.new_tensor(self.shift)) / x.new_tensor(self.scale)).to(kept)

    def undo(self, rows: Tensor) -> Tensor:
        """Rows of the pair in the units of the data."""
        if self.kind == "none":
            return rows
        x = rows.double()
        return (x * x.new_tensor(self.scale) + x.new_tensor(self.shift)).to(rows.dtype)
