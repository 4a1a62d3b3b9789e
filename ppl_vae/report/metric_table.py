"""The metric table of a report, with the numbers of `summary.json` in its cells."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ppl_vae.evaluation.metric import GROUPS
from ppl_vae.evaluation.registry import about, title
from ppl_vae.plots.diagnostics import CYCLE
from ppl_vae.report.results import p_value

__all__ = ["named", "shown", "table"]

_TEXT = (
    "On held-out data, where a run has them. ± is one standard error as an estimate for the "
    "population the data were drawn from, Monte Carlo error included; where there is none, the "
    "Monte Carlo error for these very data. ≥ and ≤ mark bounds: the quantity lies on that side "
    "of the number in expectation."
)


def table(names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> str:
    """The table of what several `summary.json` hold, a column to a run, as HTML.

    Args:
        names: of the runs.
        found: what their files hold.
    """
    every = list({name: None for f in found for name in f["metrics"]})
    order = [*GROUPS, ""]
    every.sort(key=lambda name: order.index(_group(name)))
    head = "".join(f'<th scope="col">{named(k, name)}</th>' for k, name in enumerate(names))
    rows: list[str] = []
    heading = None
    for name in every:
        what = about(name)
        if _group(name) != heading:
            rows += ["</tbody>"] if heading is not None else []
            heading = _group(name)
            rows.append(
                f'<tbody>\n<tr><th scope="rowgroup" colspan="{len(names) + 1}">'
                f"{escape(GROUPS.get(heading, 'Other'))}</th></tr>"
            )
        notes = [f["metrics"].get(name, {}).get("note", "") for f in found]
        shared = notes[0] if len(notes) > 1 and len(set(notes)) == 1 else ""
        cells = "".join(_cell(k, name, f, not shared) for k, f in enumerate(found))
        words = (what.unit, what.reading, shared) if what else (shared,)
        under = ", ".join(filter(None, words))
        rows.append(
            f'<tr data-metric="{escape(name)}"><th scope="row">{escape(title(name))}'
            f'<span class="small">{escape(under)}</span></th>{cells}</tr>'
        )
    body = "\n".join(rows)
    return (
        f'<p class="text">{escape(_TEXT)}</p>\n'
        '<div class="scroll" tabindex="0" role="region" aria-label="Metrics"><table>\n'
        f'<thead><tr><th scope="col">Metric</th>{head}</tr></thead>\n{body}\n</tbody>\n'
        f"</table></div>\n{_left_out(names, found)}"
    )


def _group(name: str) -> str:
    metric = about(name)
    return "" if metric is None else metric.group


def named(k: int, name: str) -> str:
    """A run's name with its colour, as HTML."""
    return f'<span class="chip" style="--run:{CYCLE[k % len(CYCLE)]}"></span>{escape(name)}'


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


def _cell(k: int, name: str, found: Mapping[str, Any], noted: bool) -> str:
    entry = found["metrics"].get(name)
    if entry is None:
        return f'<td data-run="{k}"><span class="value">–</span></td>'
    population, fixed = entry["data_error"], entry["standard_error"]
    error = population if population is not None else fixed
    value, spread = shown(entry["value"], error)
    if entry["unit"].endswith("p-value") and entry["value"] is not None:
        value = _sign(p_value(entry["value"]))
    side = {"lower": "≥ ", "upper": "≤ "}.get(entry["bound"] or "", "")
    doubt = escape(entry.get("flag", ""))
    flag = f'<span class="flag">{doubt}</span>' if doubt else ""
    numbers = "".join(
        f' data-{field}="{"" if number is None else repr(number)}"'
        for field, number in (
            ("value", entry["value"]),
            ("standard-error", fixed),
            ("data-error", population),
        )
    )
    text = entry["note"] if noted else ""
    note = f'<span class="small">{escape(text)}</span>' if text else ""
    return (
        f'<td data-run="{k}"{numbers} data-bound="{escape(entry["bound"] or "")}">'
        f'<span class="value">{side}{value} <span class="error">{spread}</span></span>'
        f"{flag}{note}</td>"
    )


def _left_out(names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for name, f in zip(names, found, strict=True):
        reasons: dict[str, list[str]] = {}
        for metric, reason in f["skipped"].items():
            reasons.setdefault(reason, []).append(title(metric))
        lines += [
            f"<li>{escape(name)}: {escape(', '.join(left))} ({escape(reason)})</li>"
            for reason, left in reasons.items()
        ]
    if not lines:
        return ""
    return '<p class="text">Not applicable:</p>\n<ul class="text">' + "\n".join(lines) + "</ul>"


def _sign(text: str) -> str:
    return text.replace("-", "−")
