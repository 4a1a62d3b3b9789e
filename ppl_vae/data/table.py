"""Tables of named columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ppl_vae.arguments import checked_seed
from ppl_vae.data.checks import MASK, Missing
from ppl_vae.data.columns import Column, Kind, absent, is_table, kind_of, library_of
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.frames import read_table
from ppl_vae.data.layout import Layout
from ppl_vae.data.transform import Normalise, Transform

__all__ = ["Table"]


class Table(Dataset):
    r"""A table of named columns: a CSV or Parquet file, or a data frame of pandas or polars.

    Each column is of a kind. Text and categories are classes, of which a row has one number for
    each level, all 0 but that of its own; booleans and columns of 0 and 1 are binary; integers of
    0 or more are counts; all other numbers are real. Levels are those of the training rows. New
    rows need the columns of x and of the covariates, in any order; others are left out.

    Args:
        path: the file, `.csv` or `.parquet`, or the data frame.
        test: the held-out rows: another file or data frame with these columns; by default a share
            of the rows.
        columns: those of x; by default all that are not used otherwise.
        covariates: columns that rows are conditioned on.
        labels: the column of classes; -1 where it is empty.
        weights: the column that says how much each row counts.
        index: a column that names the rows and is no part of the data.
        kinds: what columns hold, where it is not what they look like.
        held_out: share of the rows kept for testing, 0 for none, where there is no `test`.
        seed: which rows those are.
        normalise: what is done to real columns, of x and of the covariates alike; classes,
            binary columns and counts stay as they are.
        missing: as in `Dataset`; with "mask" an unknown level is a missing value too.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if pandas is not installed, or pyarrow for Parquet.
        ValueError: if a column is not there, holds dates or values of several types, or a value
            is missing or of a level that no training row has.

    Example:
        >>> import pandas as pd
        >>> people = pd.DataFrame({"age": [31.5, 40.2, 27.9], "stage": ["I", "II", "I"]})
        >>> table = Table(people, held_out=0.0)
        >>> table.layout.names
        ['age', 'stage=I', 'stage=II']
    """

    def __init__(
        self,
        path: str | Any,
        test: str | Any | None = None,
        columns: Sequence[str] | None = None,
        covariates: Sequence[str] = (),
        labels: str | None = None,
        weights: str | None = None,
        index: str | None = None,
        kinds: Mapping[str, Kind] | None = None,
        held_out: float = 0.1,
        seed: int = 0,
        normalise: Normalise = "standardise",
        missing: Missing = "refuse",
    ) -> None:
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out must lie between 0 and 1, got {held_out}")
        if normalise == "bytes":
            raise ValueError('normalise="bytes" is for images: give "standardise" or "none"')
        table, name = _table(path, index)
        given_names = _list(covariates)
        used = [*given_names, *(column for column in (labels, weights) if column)]
        taken = [*table.columns] if columns is None else _list(columns)
        if columns is None:
            taken = [column for column in taken if column not in (*used, index)]
        _check_names(name, table, taken, used)
        kinds = _kinds(table, [*taken, *given_names], kinds or {})
        held = None if test is None else _table(test, index)[0]
        for part, said in ((table, name), (held, f"{name}: test")):
            if part is not None:
                _check_missing(part, given_names, said, "")
                if missing == "refuse":
                    _check_missing(part, taken, said, f", or give {MASK}")
        if held is None:
            table, held = _split(table, held_out, seed, name)
        made = [Column.of(table, column, kinds[column]) for column in taken]
        given = [Column.of(table, column, kinds[column]) for column in given_names]
        classes = None if labels is None else Column.of(table, labels, "class")
        self.layout = Layout(made, given, classes, library=library_of(table))
        parts = [table] if held is None else [table, held]
        masks = missing == "mask"
        x = [self.layout.rows(part, masks) for part in parts]
        if held is not None:
            self.layout.check(x[1])
        transform = _real_only(Transform.of(normalise, x[0]), made)
        extra: list[Tensor | None] = [None, None]
        if given:
            raw = self.layout.given(table, "covariates")[0]
            scaling = _real_only(Transform.of(normalise, raw), given)
            self.layout = Layout(made, given, classes, scaling, self.layout.library)
            extra = [self.layout.given(part, "covariates")[0] for part in parts]
        counts = None if weights is None else Column(weights)
        w = [None if counts is None else counts.numbers(part)[:, 0] for part in parts]
        y = [None if classes is None else self.layout.labelled(part, masks) for part in parts]
        super().__init__(
            transform.apply(x[0]),
            None if held is None else transform.apply(x[1]),
            y[0],
            None if held is None else y[1],
            train_covariates=extra[0],
            test_covariates=None if held is None else extra[1],
            name=name,
            classes=() if classes is None else [str(level) for level in classes.levels],
            missing=missing,
            train_weights=w[0],
            test_weights=None if held is None else w[1],
        )
        self.transform = transform


def _list(names: Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else [*names]


def _table(source: Any, index: str | None) -> tuple[Any, str]:
    """A table and what messages call it."""
    if is_table(source):
        return source, "table"
    if not isinstance(source, str | Path):
        raise TypeError(
            f"path is a {type(source).__name__}: give a .csv or .parquet file, or a data frame"
        )
    return read_table(source, index), Path(source).stem


def _check_names(name: str, table: Any, x: Sequence[str], others: Sequence[str]) -> None:
    every, used = [*table.columns], [*x, *others]
    for column in used:
        if not isinstance(column, str):
            raise ValueError(f"{name}: column {column!r} has no name: name it by text")
        if column not in every:
            raise ValueError(f"{name} has no column {column!r}, only {every}")
        if every.count(column) > 1 or used.count(column) > 1:
            raise ValueError(f"{name}: column {column!r} is there twice: give each one use")
    if not x:
        raise ValueError(f"{name} has no columns left for x: name some as columns=")


def _kinds(table: Any, columns: Sequence[str], told: Mapping[str, Kind]) -> dict[str, Kind]:
    """What columns hold: as said, else as they look in all rows."""
    words = ", ".join(get_args(Kind))
    for column, kind in told.items():
        if column not in columns:
            raise ValueError(f"kinds: {column!r} is none of the columns {[*columns]}")
        if kind not in get_args(Kind):
            raise ValueError(f"kinds: {column!r} is {kind!r}: give one of {words}")
    return {column: told.get(column) or kind_of(table, column) for column in columns}


def _split(table: Any, held_out: float, seed: int, name: str) -> tuple[Any, Any]:
    count = round(held_out * len(table))
    if held_out and not 1 <= count < len(table):
        raise ValueError(
            f"{name} has {len(table)} rows, too few to hold {held_out:g} of them out: give more, "
            "or a table test"
        )
    if not count:
        return table, None
    order = torch.randperm(
        len(table), generator=torch.Generator().manual_seed(checked_seed(seed))
    ).numpy()
    if library_of(table) == "polars":
        return table[order[count:]], table[order[:count]]
    return table.iloc[order[count:]], table.iloc[order[:count]]


def _check_missing(table: Any, columns: Sequence[str], name: str, more: str) -> None:
    for column in columns:
        gone = absent(table, column)
        if gone.any():
            raise ValueError(
                f"{name}: column {column!r} has {int(gone.sum())} missing values, the first in "
                f"row {int(gone.argmax())}: drop those rows or fill them in{more}"
            )


def _real_only(transform: Transform, columns: Sequence[Column]) -> Transform:
    """The transform with all but real columns left as they are."""
    if transform.kind == "none":
        return transform
    real = np.repeat([column.kind == "real" for column in columns], [c.width for c in columns])
    shift = np.where(real, transform.shift, 0.0).tolist()
    return Transform(transform.kind, shift, np.where(real, transform.scale, 1.0).tolist())
