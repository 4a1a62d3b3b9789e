"""How results are shown: in one line, as a table, in words."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

__all__ = ["Record", "p_value", "table"]


class Record:
    """A dataclass whose repr is one line, with arrays by their shapes and ranges."""

    def __repr__(self) -> str:
        told = [(f.name, getattr(self, f.name)) for f in fields(self) if f.repr]  # type: ignore[arg-type]
        parts = [f"{k}={_brief(v, self._told_p if k == 'p_values' else None)}" for k, v in told]
        return f"{type(self).__name__}({', '.join(parts)})"

    def _told_p(self, p: float) -> str:
        return p_value(p)


def table(columns: Mapping[str, Any], index: Any = None, name: str | None = None) -> Any:
    """A `pandas.DataFrame` of columns.

    Args:
        columns: arrays by name.
        index: labels of the rows.
        name: of the index.

    Raises:
        ImportError: without pandas, which is not needed for anything else here.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_dataframe needs pandas: pip install pandas") from error
    frame: pandas.DataFrame = pandas.DataFrame(dict(columns), index=index)
    frame.index.name = name
    return frame


def p_value(p: float, draws: int | None = None) -> str:
    """A p-value as it is read: a bound, where its size is not known.

    That is far out, where it rests on the tail of a formula; and for a share of draws where none
    of them, or all, are beyond the data, as with the data among them they are one of R + 1.

    Args:
        p: the p-value.
        draws: R, if it is a share of so many draws.

    Example:
        >>> p_value(0.0312), p_value(3e-40), p_value(0.0, draws=200), p_value(1.0, draws=200)
        ('0.031', '< 1e-06', '< 0.005', '> 0.995')
    """
    least = 1e-6 if draws is None else 1 / (draws + 1)
    if p < least:
        return f"< {least:.2g}"
    if draws is not None and 1 - p < least:
        return f"> {1 - least:.3g}"
    return f"{p:.2g}"


def _brief(value: Any, told: Callable[[float], str] | None = None) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "min"):
        if not shape:
            return told(value.item()) if told else f"{value.item():.4g}"
        size = "(" + ", ".join(map(str, shape)) + ("," * (len(shape) == 1)) + ")"
        if 0 in shape or "complex" in str(value.dtype):
            return f"array of {size}"
        ends = [told(v) if told else f"{v:.3g}" for v in map(float, (value.min(), value.max()))]
        return f"array of {size} from {ends[0]} to {ends[1]}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_brief(v, told)}" for k, v in value.items()) + "}"
    if isinstance(value, float):
        return told(value) if told else f"{value:.4g}"
    return repr(value)
