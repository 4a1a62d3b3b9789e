"""How results are shown: in one line, as a table, in words."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

__all__ = ["Record", "p_value", "table"]


class Record:
    """A dataclass whose repr is one line, with arrays by their shapes and ranges."""

    def __repr__(self) -> str:
        parts = [f"{f.name}={_brief(getattr(self, f.name))}" for f in fields(self) if f.repr]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(parts)})"


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


def p_value(p: float) -> str:
    """A p-value as it is read; far out, where its size rests on the tail of a formula, a bound.

    Example:
        >>> p_value(0.0312), p_value(3e-40)
        ('0.031', '< 1e-06')
    """
    return f"{p:.2g}" if p >= 1e-6 else "< 1e-06"


def _brief(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "min"):
        if not shape:
            return f"{value.item():.4g}"
        size = "(" + ", ".join(map(str, shape)) + ("," * (len(shape) == 1)) + ")"
        if 0 in shape or "complex" in str(value.dtype):
            return f"array of {size}"
        return f"array of {size} from {float(value.min()):.3g} to {float(value.max()):.3g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_brief(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return repr(value)
