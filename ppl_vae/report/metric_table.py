"""The metric table of a report, with the numbers of `summary.json`."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ppl_vae.evaluation.metric import GROUPS, P_VALUE
from ppl_vae.evaluation.registry import about, title
from ppl_vae.records import p_value

__all__ = ["Cell", "Group", "Row", "left_out", "shown", "table"]


class Cell(NamedTuple):
    """One number of one run, as it is read and as it is."""

    value: str = "–"
    spread: str = ""
    flag: str = ""
    note: str = ""
    numbers: Mapping[str, str] = MappingProxyType({})


class Row(NamedTuple):
    """One metric of all runs."""

    name: str
    title: str
    under: str
    cells: Sequence[Cell]


class Group(NamedTuple):
    """Metrics that stand together."""

    title: str
    rows: Sequence[Row]


def table(found: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The table of what several `summary.json` hold, a cell to a run.

    Args:
        found: what their files hold.
    """
    every = list({name: None for f in found for name in f["metrics"]})
    groups = {key: [name for name in every if _group(name) == key] for key in (*GROUPS, "")}
    return [
        Group(GROUPS.get(key, "Other"), [_row(name, found) for name in names])
        for key, names in groups.items()
        if names
    ]


def _row(name: str, found: Sequence[Mapping[str, Any]]) -> Row:
    what = about(name)
    notes = [f["metrics"].get(name, {}).get("note", "") for f in found]
    shared = notes[0] if len(notes) > 1 and len(set(notes)) == 1 else ""
    words = (what.unit, what.reading, shared) if what else (shared,)
    cells = [_cell(f["metrics"].get(name), not shared) for f in found]
    return Row(name, title(name), ", ".join(filter(None, words)), cells)


def _group(name: str) -> str:
    metric = about(name)
    return "" if metric is None else metric.group


def shown(value: float | None, error: float | None = None) -> tuple[str, str]:
    """A number and its error as they are read: the error to two digits, the number no further.

    Example:
        >>> shown(-40.53721, 0.1275)
        ('−40.54', '± 0.13')
    """
    if value is None:
        return "–", ""
    if not error or not math.isfinite(error) or error < 1e-5 * abs(value):
        tail = f"± {_sign(f'{error:.1g}')}" if error else ""
        whole = value == int(value) and abs(value) < 1e6
        return _sign(f"{value:.0f}" if whole else f"{value:.4g}"), tail
    size = max(abs(value), error)
    if size < 1e-4 or size >= 1e6:
        return _sign(f"{value:.2e}"), f"± {_sign(f'{error:.1e}')}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return _sign(f"{value:.{digits}f}"), f"± {error:.{digits}f}"


def _cell(entry: Mapping[str, Any] | None, noted: bool) -> Cell:
    if entry is None:
        return Cell()
    population, fixed = entry["data_error"], entry["standard_error"]
    value, spread = shown(entry["value"], population if population is not None else fixed)
    if entry["unit"] == P_VALUE and entry["value"] is not None:
        value = _sign(p_value(entry["value"]))
    side = {"lower": "≥ ", "upper": "≤ "}.get(entry["bound"] or "", "")
    numbers = {"value": entry["value"], "standard-error": fixed, "data-error": population}
    read = {field: "" if n is None else repr(n) for field, n in numbers.items()}
    return Cell(
        side + value,
        spread,
        entry.get("flag", ""),
        entry["note"] if noted else "",
        read | {"bound": entry["bound"] or ""},
    )


def left_out(names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which metrics each run has none of, and why, a line to a run and a reason."""
    lines = []
    for name, f in zip(names, found, strict=True):
        reasons: dict[str, list[str]] = {}
        for metric, reason in f["skipped"].items():
            reasons.setdefault(reason, []).append(title(metric))
        lines += [f"{name}: {', '.join(left)} ({why})" for why, left in reasons.items()]
    return lines


def _sign(text: str) -> str:
    return text.replace("-", "−")
