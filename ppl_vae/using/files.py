"""New rows from files, and results into files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ppl_vae import files
from ppl_vae.data.archives import read_arrays
from ppl_vae.data.frames import TABLES, pandas_for, read_table
from ppl_vae.data.tensors import as_tensor
from ppl_vae.using.forms import Form

__all__ = ["check_out", "read", "write"]

_ARRAYS = (".npy", ".npz")


def read(path: str | Path, index: str | None = None) -> Any:
    """Rows from a file: a pandas table of `.csv` or `.parquet`, an array of `.npy` or `.npz`.

    Args:
        path: the file.
        index: a column that names the rows and is none of the data's.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another kind, damaged, or without that column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no data file {str(path)!r}")
    if path.suffix in TABLES:
        return read_table(path, index)
    if index is not None:
        raise ValueError(f"index={index!r} names a column, and {str(path)!r} is no table")
    if path.suffix not in _ARRAYS:
        raise ValueError(f"{str(path)!r} must end in .csv, .parquet, .npy or .npz")
    loaded = read_arrays(path)
    if len(loaded) != 1:
        raise ValueError(f"{str(path)!r} holds {[*loaded]}: one array of rows is needed")
    return next(iter(loaded.values()))


def check_out(path: str | Path, pictures: bool = False, several: bool = False) -> Path:
    """The file to write, held to be of a kind that can be and in a folder that is there.

    Args:
        path: the file.
        pictures: whether a `.png` is taken too.
        several: whether there is more than one array to write, which `.npy` does not take.
    """
    path = Path(path)
    kinds = [*TABLES, *(_ARRAYS[several:]), *([".png"] if pictures else [])]
    if path.suffix not in kinds:
        *rest, last = kinds
        raise ValueError(f"out is {str(path)!r}: its name must end in {', '.join(rest)} or {last}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"out is {str(path)!r}: there is no folder {str(path.parent)!r}")
    if path.suffix in TABLES:
        pandas_for(path)
    return path


def write(
    path: str | Path,
    values: Any,
    names: Sequence[str] = (),
    title: str = "",
    columns: int = 8,
    **more: Any,
) -> None:
    """Writes results, whole or not at all.

    Args:
        path: the file; its end says how.
        values: a tensor, an array or a pandas table, with a row for each row.
        names: of the columns, where a table is written and none came.
        title: of a picture.
        columns: images to a line of it.
        more: further columns of a table, or arrays of an `.npz`, as long as the rows.
    """
    import numpy as np

    path = Path(path)
    if path.suffix == ".png":
        from ppl_vae import plots

        shown = as_tensor(values)
        # ways one below the other, or single points
        flat = shown.flatten(0, -4) if shown.dim() > 3 else shown.reshape(-1, shown.shape[-1])
        plots.save(plots.samples(flat, columns=columns), path, title)
        return
    with files.written(path) as new:
        if path.suffix in TABLES:
            table = values if hasattr(values, "to_csv") else _as_table(as_tensor(values), names)
            for name, column in more.items():
                table = table.assign(**{name: np.asarray(column).reshape(-1)})
            if path.suffix == ".csv":
                table.to_csv(new, index=_named(table.index))
            else:
                table.to_parquet(new)
        elif path.suffix == ".npz":
            arrays: dict[str, Any] = {"rows": values, **more}
            np.savez(new, **{k: np.asarray(v) for k, v in arrays.items()})  # type: ignore[arg-type]
        else:
            np.save(new, np.asarray(values.cpu() if isinstance(values, Tensor) else values))


def _as_table(values: Tensor, names: Sequence[str]) -> Any:
    if values.dim() > 3 or (values.dim() == 3 and values.shape[-1] != len(names)):
        values = values.reshape(len(values), -1)
    return Form("pandas").give(values if values.dim() > 1 else values[:, None], names)


def _named(index: Any) -> bool:
    """Whether an index says more than the rows' numbers."""
    return any(name is not None for name in index.names) or type(index).__name__ != "RangeIndex"
