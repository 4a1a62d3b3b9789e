"""The forms that rows come in and results go back in: tensors, arrays, tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
        flat = array.reshape(-1, count)
        if self.kind == "polars":
            import polars

            found = polars.DataFrame(flat, schema=names, orient="row")
            return found.to_series() if values.dim() == 1 else found
        import pandas as pd

        index = self.index if self.index is not None else pd.RangeIndex(len(array))
        if values.dim() == 3:
            m = array.shape[1]
            repeated, each = index.repeat(m), list(range(m)) * len(index)
            levels = [repeated.get_level_values(i) for i in range(index.nlevels)]
            index = pd.MultiIndex.from_arrays([*levels, each], names=[*index.names, within])
        found = pd.DataFrame(flat, index=index, columns=names)
        return found[names[0]] if values.dim() == 1 else found
