"""Tables in files."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["TABLES", "pandas_for", "read_table"]

TABLES = (".csv", ".parquet")
"""What the names of their files end in."""


def pandas_for(path: str | Path) -> Any:
    """The library that reads and writes a file.

    Raises:
        ImportError: naming the extra that brings it.
    """
    try:
        import pandas

        if Path(path).suffix == ".parquet":
            import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{str(path)!r}: tables need pandas, and Parquet pyarrow: pip install "
            "'ppl-vae[tables]'"
        ) from error
    return pandas


def read_table(path: str | Path, index: str | None = None) -> Any:
    """The pandas table of a CSV or Parquet file.

    Args:
        path: the file.
        index: a column that names the rows and is none of the data's.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if pandas is not installed, or pyarrow for Parquet.
        ValueError: if it is of another kind, damaged, or without that column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no data file {str(path)!r}")
    if path.suffix not in TABLES:
        raise ValueError(f"{str(path)!r} must end in {' or '.join(TABLES)}")
    pandas = pandas_for(path)
    try:
        if path.suffix == ".csv":
            _check_names(path)
            found = pandas.read_csv(path)
        else:
            _check_size(path)
            found = pandas.read_parquet(path)
    except Exception as error:  # of any kind: pandas and pyarrow have many of their own
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{str(path)!r} is not a {path.suffix[1:]} table: {said}") from error
    if index is not None:
        if index not in found.columns:
            raise ValueError(f"{str(path)!r} has no column {index!r}, only {[*found.columns]}")
        found = found.set_index(index)
    return found


def _check_names(path: Path) -> None:
    """Refuses a CSV file that names a column twice, over which pandas may take hours."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next((row for row in csv.reader(file) if row), [])
    if twice := [name for name, n in Counter(names).items() if name and n > 1]:
        raise ValueError(f"column {twice[0]!r} is there twice: give each one use")


# A table may grow to so many bytes, or so many times its file's, whichever is more.
_GROWN, _TIMES = 2**28, 300


def _check_size(path: Path) -> None:
    """Refuses a Parquet file that holds many times what it takes, before it is read."""
    from pyarrow import parquet

    found = parquet.read_metadata(path)
    grown = 8 * found.num_rows * found.num_columns
    if grown > max(_GROWN, _TIMES * path.stat().st_size):
        raise ValueError(f"it would grow to {grown:,} bytes")
