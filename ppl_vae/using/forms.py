"""The forms that rows come in and results go back in: tensors, arrays, tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.tensors import is_array

__all__ = ["Form"]


@dataclass(frozen=True)
class Form:
    """How rows came, and so how results are given back.

    Attributes:
        kind: `"tensor"`, `"array"` (NumPy, lists), `"pandas"` or `"polars"`.
        index: of a pandas table.
        columns: of a table.
        device: of a tensor.
    """

    kind: str = "tensor"
    index: Any = None
    columns: Sequence[str] = ()
    device: torch.device | None = None

    @classmethod
    def of(cls, rows: object) -> "Form":
        """The form of rows; of several arguments that of the first."""
        if isinstance(rows, tuple | list) and rows and is_array(rows[0]):
            return cls.of(rows[0])
        if isinstance(rows, Tensor):
            return cls("tensor", device=rows.device)
        library = type(rows).__module__.partition(".")[0]
        if library in ("pandas", "polars"):
            columns = [str(name) for name in getattr(rows, "columns", ())]
            return cls(library, getattr(rows, "index", None), columns)
        return cls("array")

    def give(self, values: Tensor, names: Sequence[str] = (), within: str = "draw") -> Any:
        """Results with a row for each row that came, in the rows' own form.

        Args:
            values: `(n,)`, `(n, columns)`, or `(n, m, columns)` with m of them for each row; of
                more dimensions, such as images, tables are given as arrays.
            names: of the columns.
            within: what the m are called in the index of a table.
        """
        values = values.detach()
        if self.kind == "tensor":
            return values.to(self.device)
        array = values.cpu().numpy()
        if self.kind == "array" or values.dim() > 3:
            return array
        count = 1 if values.dim() == 1 else values.shape[-1]
        names = [*names] if len(names) == count else [str(i) for i in range(count)]
        columns = [array] if values.dim() == 1 else [array[..., i] for i in range(count)]
        found = self.table(names, columns, within)
        return found if values.dim() > 1 else found[names[0]]

    def table(
        self, names: Sequence[str], columns: Sequence[np.ndarray[Any, Any]], within: str = "draw"
    ) -> Any:
        """A table with the rows' index.

        Args:
            names: of its columns.
            columns: each `(n,)`, or `(n, m)` with m of them for each row.
            within: what the m are called in the index.
        """
        shape = columns[0].shape
        flat = [array.reshape(-1) for array in columns]
        if self.kind == "polars":
            import polars

            texts = [array.tolist() if array.dtype.kind == "O" else array for array in flat]
            return polars.DataFrame(dict(zip(names, texts, strict=True)))
        import pandas as pd

        index = self.index if self.index is not None else pd.RangeIndex(shape[0])
        if len(shape) == 2:
            repeated, each = index.repeat(shape[1]), [*range(shape[1])] * len(index)
            levels = [repeated.get_level_values(i) for i in range(index.nlevels)]
            index = pd.MultiIndex.from_arrays([*levels, each], names=[*index.names, within])
        found = pd.DataFrame(dict(enumerate(flat)), index=index)
        found.columns = pd.Index(names)
        return found
