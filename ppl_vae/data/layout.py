"""Which columns of a table are what: rows of the model, covariates, labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.columns import Column, is_table, library_of
from ppl_vae.data.transform import Transform
from ppl_vae.documents import record

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """The columns of a table that a pair is trained on; all others are left out.

    Args:
        x: the columns of the rows, in order.
        covariates: what rows are conditioned on.
        labels: the column of classes.
        scaling: what is done to the numbers of the covariates.
        library: whose tables they are, pandas or polars.
    """

    x: Sequence[Column]
    covariates: Sequence[Column] = ()
    labels: Column | None = None
    scaling: Transform = field(default_factory=Transform)
    library: str = "pandas"

    @classmethod
    def of_numbers(cls, table: Any) -> "Layout | None":
        """That of a table of named columns of numbers, all real; None of anything else."""
        if not is_table(table) or not all(isinstance(name, str) for name in table.columns):
            return None
        names = [*table.columns]
        if not names or len({*names}) < len(names):
            return None
        return cls([Column(name) for name in names], library=library_of(table))

    @classmethod
    def of_plain(cls, kept: Mapping[str, Any] | None) -> "Layout | None":
        """The layout that `plain` describes.

        Raises:
            ValueError: if it is no such thing.
        """
        if kept is None:
            return None
        where = "the table of data.json"
        found = record(cls, kept, where)
        if found.library not in ("pandas", "polars"):
            raise ValueError(f"{where} is damaged: {found.library!r} is no library of tables")
        if not found.x:
            raise ValueError(f"{where} is damaged: it has no columns")
        x, covariates = (
            [record(Column, column, f"a column in {where}") for column in columns]
            for columns in (found.x, found.covariates)
        )
        labels: Any = found.labels
        if labels is not None:
            labels = record(Column, labels, f"the labels in {where}")
        scaling: Any = found.scaling
        return cls(x, covariates, labels, Transform.of_plain(scaling), found.library)

    @property
    def plain(self) -> dict[str, Any]:
        """As mappings, lists and numbers."""
        return asdict(self)

    @property
    def names(self) -> list[str]:
        """What each number of a row is called."""
        return [name for column in self.x for name in column.names]

    def rows(self, table: Any, missing: bool = False) -> Tensor:
        """The numbers of a table's rows, `(n, width)`, NaN where missing.

        Args:
            table: with the columns of x, in any order.
            missing: take levels that are unknown for missing values.

        Raises:
            ValueError: if it lacks one, or holds what the training's did not.
        """
        return _numbers(self.x, lambda column: column.numbers(table, missing))

    def blank(self, n: int) -> Tensor:
        """Rows of zeros, and of the first level of each class."""
        firsts = [torch.eye(1, column.width)[0] * (column.kind == "class") for column in self.x]
        return torch.cat(firsts).repeat(n, 1)

    def check(self, rows: Tensor) -> None:
        """Holds rows `(n, width)` against the kinds of their columns.

        Raises:
            ValueError: naming the first column with a value that is not of its kind.
        """
        parts = rows.split([column.width for column in self.x], -1)
        for column, part in zip(self.x, parts, strict=True):
            column.check(part.numpy())

    def given(self, table: Any, extra: str, missing: bool = False) -> tuple[Tensor, ...]:
        """What rows are conditioned on, from their table.

        Args:
            table: with the columns of the covariates or labels.
            extra: "covariates", "labels" or "", of which there is nothing. Classes stand in for
                covariates where there are none. Labels may be left out.
            missing: take levels that are unknown for missing values.

        Raises:
            ValueError: if a column is not there, or a covariate is missing.
        """
        if extra == "covariates":
            columns = self.covariates or ([self.labels] if self.labels else [])
            found = _numbers(columns, lambda column: column.numbers(table))
            self.check_covariates(found)
            return (self.scaling.apply(found) if self.covariates else found,)
        if extra == "labels":
            return (self.labelled(table, missing),)
        return ()

    def check_covariates(self, numbers: Tensor) -> None:
        """Refuses missing covariates.

        Raises:
            ValueError: naming the column and the row.
        """
        gone = numbers.isnan()
        if gone.any():
            row, place = gone.nonzero()[0].tolist()
            owners = [column.name for column in self.covariates for _ in column.names]
            name = owners[place] if owners else "labels"
            raise ValueError(
                f"covariate {name!r} is missing in row {row}, as are some in "
                f"{int(gone.any(1).sum())} rows: drop those rows or fill them in"
            )

    def labelled(self, table: Any, missing: bool = False) -> Tensor:
        """The classes of a table's rows, `(n,)`; -1 where unknown."""
        if self.labels is None or self.labels.name not in table.columns:
            return torch.full((len(table),), -1)
        numbers = torch.from_numpy(self.labels.numbers(table, missing))
        return numbers.nan_to_num(0.0).argmax(1).masked_fill(numbers.isnan().any(1), -1)

    def columns(self, numbers: Tensor) -> dict[str, np.ndarray[Any, Any]]:
        """What a table shows for rows `(..., width)`: of a class the likeliest level."""
        parts = numbers.detach().cpu().split([column.width for column in self.x], -1)
        return {
            column.name: column.values(part.numpy())
            for column, part in zip(self.x, parts, strict=True)
        }

    @property
    def classes(self) -> list[str]:
        """The columns of x that hold classes."""
        return [column.name for column in self.x if column.kind == "class"]

    def place(self, index: Sequence[int]) -> str:
        """A place in rows in words."""
        owners = [column.name for column in self.x for _ in column.names]
        row, number = index
        return f"row {row}, column {owners[number]!r}"


def _numbers(columns: Sequence[Column], read: Callable[[Column], Any]) -> Tensor:
    return torch.from_numpy(np.concatenate([read(column) for column in columns], 1))
