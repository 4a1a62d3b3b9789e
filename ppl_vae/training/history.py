"""What a training has found, epoch by epoch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ppl_vae.records import table

if TYPE_CHECKING:
    import pandas

__all__ = ["KINDS", "History"]

KINDS = (
    "bound",
    "reconstruction",
    "rate",
    "mutual_information",
    "total_correlation",
    "dimension_wise",
    "divergence",
    "information",
    "target",
    "global",
)
"""The kinds of terms an objective leaves, as `kind/site`."""


class History:
    """One row of named numbers for each epoch, all but the counts in nats per datum.

    Names are `epoch`, `step`, `loss`, the objective's terms (`reconstruction/x`, `rate/z`,
    `divergence/z`), the sums over sites (`reconstruction`, `rate`, `divergence`), the same under
    `validation/`, and of each code its noise and the spread of its means (`sd/z[0]`,
    `spread/z[0]`).

    Example:
        >>> history = History([{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0}])
        >>> history["loss"], history.last["epoch"]
        ([3.0, 2.0], 2)
    """

    def __init__(self, rows: list[dict[str, float]] | None = None) -> None:
        self.rows = [] if rows is None else rows

    def to_dataframe(self) -> "pandas.DataFrame":
        """As a `pandas.DataFrame`, a row for each epoch."""
        columns = {name: self[name] for name in self.names if name != "epoch"}
        return table(columns, self["epoch"] if self.rows else None, "epoch")

    @property
    def names(self) -> list[str]:
        """The names that stand in any row, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def last(self) -> dict[str, float]:
        """The last row."""
        return self.rows[-1]

    def __getitem__(self, name: str) -> list[float]:
        """The column `name`, NaN where a row lacks it; KeyError if every row does."""
        if name not in self.names:
            raise KeyError(f"no {name!r} among {', '.join(self.names)}")
        return [row.get(name, float("nan")) for row in self.rows]

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        shown = ("loss", *KINDS, "validation/loss")
        last = [f"{k}={self.last[k]:.4g}" for k in shown if self.rows and k in self.last]
        return f"History({len(self)} epochs{'; ' * bool(last)}{', '.join(last)})"
