"""The columns of a table: what each holds, and the numbers that stand for it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from numbers import Real
from typing import Any, Literal, Self

import numpy as np

__all__ = ["Column", "Kind", "absent", "is_table", "kind_of", "library_of"]

Kind = Literal["real", "count", "binary", "class"]
"""What a column holds."""

Level = str | int | float

_Array = np.ndarray[Any, Any]

# Text that is a date in every row.
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?")

# Text with more levels than this is refused where most rows have one of their own.
_LEVELS = 20


def library_of(rows: object) -> str:
    """The library whose rows are an instance of."""
    return type(rows).__module__.partition(".")[0]


def is_table(rows: object) -> bool:
    """Whether rows are a table of named columns: a data frame of pandas or polars."""
    return library_of(rows) in ("pandas", "polars") and type(rows).__name__ == "DataFrame"


@dataclass(frozen=True)
class Column:
    """A column of a table, and the numbers that stand for it.

    Args:
        name: its name.
        kind: "real"; "count", whole numbers of 0 or more; "binary", 0 and 1; or "class", of which
            a row has one number for each level, all 0 but that of its own (one-hot).
        levels: of a class.
        mean: over the training rows.

    Example:
        >>> stage = Column("stage", "class", ("I", "II"))
        >>> stage.names
        ['stage=I', 'stage=II']
        >>> stage.values(np.array([[0.2, 0.8]])).tolist()
        ['II']
    """

    name: str
    kind: Kind = "real"
    levels: Sequence[Level] = ()
    mean: float = 0.0

    @classmethod
    def of(cls, table: Any, name: str, kind: Kind) -> Self:
        """A column of training rows that is of a kind.

        Raises:
            ValueError: if it has no values there, or some are not of that kind.
        """
        values, missing = _read(table, name)
        seen = values[~missing]
        if not len(seen):
            raise ValueError(f"column {name!r} has no values: leave it out")
        if kind == "class":
            levels = _sorted([_level(v) for v in np.unique(seen).tolist()])
            return cls(name, kind, levels)
        found = cls(name, kind, (), 0.0 if seen.dtype.kind == "O" else float(seen.mean()))
        found.check(found.numbers(table))
        return found

    @property
    def width(self) -> int:
        """How many numbers stand for it."""
        return len(self.levels) if self.kind == "class" else 1

    @property
    def names(self) -> list[str]:
        """What each of them is called."""
        if self.kind != "class":
            return [self.name]
        return [f"{self.name}={level}" for level in self.levels]

    def numbers(self, table: Any, missing: bool = False) -> _Array:
        """The numbers that stand for the column of a table, `(n, width)`, NaN where missing.

        Args:
            table: of pandas or polars.
            missing: take a level that is unknown for a missing value.

        Raises:
            ValueError: if there is no such column, or it holds text where numbers are, or a level
                that no training row has.
        """
        values, absent = _read(table, self.name)
        if self.kind != "class":
            if values.dtype.kind == "O" and not absent.all():
                text = values[~absent][0]
                raise ValueError(
                    f"column {self.name!r} holds {text!r}, not a number: make it one, or give a "
                    "Table, which takes text as classes"
                )
            found = np.full((len(values), 1), np.nan)
            found[~absent, 0] = values[~absent]
            return found
        place = {level: i for i, level in enumerate(self.levels)}
        distinct, which = np.unique(values[~absent], return_inverse=True)
        places = [place.get(_level(value), -1) for value in distinct.tolist()]
        if -1 in places and not missing:
            strange = _level(distinct.tolist()[places.index(-1)])
            raise ValueError(
                f"column {self.name!r} has the level {strange!r}, which no training row has: "
                f"known are {', '.join(map(repr, self.levels))}; drop those rows, or train with "
                'missing="mask", which takes it for missing'
            )
        full = np.full(len(values), -1)
        full[~absent] = np.asarray(places, dtype=int)[which.reshape(-1)] if places else -1
        found = (full[:, None] == np.arange(self.width)).astype(np.float64)
        found[full < 0] = np.nan
        return found

    def check(self, numbers: _Array) -> None:
        """Holds numbers against the kind.

        Raises:
            ValueError: naming the column and the first that is not of it.
        """
        x = numbers[~np.isnan(numbers).any(1)]
        wrong = np.zeros(x.shape, dtype=bool)
        if self.kind == "binary":
            wrong = (x != 0) & (x != 1)
        elif self.kind == "count":
            wrong = (x < 0) | (x != np.round(x))
        if wrong.any():
            what = {"binary": "0 or 1", "count": "a whole number of 0 or more"}[self.kind]
            raise ValueError(
                f"column {self.name!r} is {self.kind} and holds {x[wrong][0]:g}, not {what}: "
                f"round it, or train with kinds={{{self.name!r}: 'real'}}"
            )

    def values(self, numbers: _Array) -> _Array:
        """What a table shows for numbers `(..., width)`: of a class the likeliest level."""
        if self.kind != "class":
            return numbers[..., 0]
        kept = np.array(self.levels, dtype=None if _of_one_type(self.levels) else object)
        kept = kept.astype(object) if kept.dtype.kind in "US" else kept
        found = kept[np.nan_to_num(numbers).argmax(-1)]
        gone = np.isnan(numbers).any(-1)
        if gone.any():
            found = found.astype(object)
            found[gone] = None
        return found


def absent(table: Any, name: str) -> _Array:
    """Where a column of a table has no value, `(n,)`."""
    return _read(table, name)[1]


def _read(table: Any, name: str) -> tuple[_Array, _Array]:
    """A column's values, numbers or objects, and where one is missing."""
    if name not in table.columns:
        known = ", ".join(map(repr, table.columns))
        raise ValueError(f"there is no column {name!r}, only {known}")
    series = table[name]
    values = np.asarray(series.to_numpy())
    missing = np.array(series.isna() if hasattr(series, "isna") else series.is_null().to_numpy())
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
    if values.dtype.kind in "mM":
        raise _dates(name)
    if values.dtype.kind in "biuf":
        return values, missing
    seen = values[~missing]
    kinds = {_type(kind) for kind in {type(value) for value in seen.tolist()}}
    if kinds == {"date"}:
        raise _dates(name)
    if kinds <= {"number"}:
        found = np.full(len(values), np.nan)
        found[~missing] = seen.astype(np.float64)
        return found, missing
    if len(kinds) == 1 and kinds != {"text"}:
        raise ValueError(f"column {name!r} holds {seen[0]!r}, which is neither number nor text")
    if kinds != {"text"}:
        first = next(value for value in seen if _type(type(value)) != _type(type(seen[0])))
        raise ValueError(
            f"column {name!r} holds values of several types, such as {seen[0]!r} and {first!r}: "
            "make them numbers, or all text"
        )
    found = values.astype(object)
    found[~missing] = seen.astype(str)
    return found, missing


def _type(kind: type) -> str:
    if issubclass(kind, str):
        return "text"
    if issubclass(kind, Real | np.number | np.bool_) or kind.__name__ == "Decimal":
        return "number"
    return "date" if issubclass(kind, date | timedelta) else kind.__name__


def _dates(name: str) -> ValueError:
    return ValueError(
        f"column {name!r} holds dates: turn them into numbers, such as days since the first, or "
        "leave it out"
    )


def kind_of(table: Any, name: str) -> Kind:
    """What a column of a table looks as if it held.

    Text and pandas' categories are classes, the values 0 and 1 alone and booleans are binary,
    integers of 0 or more are counts, and all other numbers are real. Whole numbers among which
    some are missing, which makes floats of integers, count as integers.

    Raises:
        ValueError: for dates, values of several types, text with a level for every row, and a
            column of nothing.
    """
    values, missing = _read(table, name)
    seen = values[~missing]
    if not len(seen):
        raise ValueError(f"column {name!r} has no values: leave it out")
    if seen.dtype.kind == "O":
        distinct = np.unique(seen)
        if all(_DATE.fullmatch(text) for text in distinct):
            raise _dates(name)
        if len(distinct) > max(_LEVELS, len(seen) / 2):
            raise ValueError(
                f"column {name!r} is text with {len(distinct)} levels in {len(seen)} rows: leave "
                f"it out, or give kinds={{{name!r}: 'class'}}"
            )
        return "class"
    if str(table[name].dtype) == "category":
        return "class"
    if seen.dtype.kind == "b" or ((seen == 0) | (seen == 1)).all():
        return "binary"
    holes = bool(missing.any())
    integers = seen.dtype.kind in "iu" or (holes and bool((seen == np.round(seen)).all()))
    return "count" if integers and bool((seen >= 0).all()) else "real"


def _level(value: Any) -> Level:
    """A level as it is kept; whole numbers as integers, as missing values make floats of them."""
    if isinstance(value, str):
        return value
    return int(value) if float(value).is_integer() else float(value)


def _of_one_type(levels: Sequence[Level]) -> bool:
    return len({isinstance(level, str) for level in levels}) == 1


def _sorted(levels: Sequence[Level]) -> tuple[Level, ...]:
    return tuple(sorted(levels))  # type: ignore[type-var]
