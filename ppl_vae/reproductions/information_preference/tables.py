"""The tables of docs/results.md, from what was measured."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ppl_vae.reproductions.information_preference.cells import Cell
from ppl_vae.reproductions.information_preference.claims import Read, Results

__all__ = ["tables"]

_Measured = Mapping[str, Any]

_COLUMNS: dict[str, Callable[[_Measured], str]] = {
    "rate": lambda m: _significant(m["rate"]),
    "I at least": lambda m: _significant(m["I at least"], 3),
    "usage": lambda m: _significant(m["usage"], 3),
    "NLL (size)": lambda m: f"{_number(m['NLL'], 2)} ({m['size']:.0f})",
}
_REST: dict[str, Callable[[_Measured], str]] = {
    "own NLL (size)": lambda m: f"{_significant(m['own NLL'], 4)} ({m['own size']:.0f})",
    "SVM": lambda m: _number(m["SVM"], 3),
    "log-det/d": lambda m: _signed(m["log-det/d"], 2),
    "MMD²": lambda m: _number(m["MMD^2"], 4),
    "classes": lambda m: _number(m["classes"], 3),
    "FID": lambda m: _number(m["FID"], 1),
}


def tables(cells: Sequence[Cell], results: Results) -> str:
    """What has been measured, in Markdown: a table of each decoder, length and set of seeds.

    NLL less that of the plain ELBO with the same decoder, seed and steps has the standard error of
    the paired difference.

    Args:
        cells: in the order of their rows.
        results: measures by the cell's name and the step.
    """
    read = Read(results)
    first = min((cell.seed for cell in cells), default=0)
    small = [c for c in cells if c.side == 14 and c.decoder == "small"]
    small = sorted(small, key=lambda c: (not c.maps, c.standardised))
    of_first = [c for c in small if c.seed == first]
    wide = [c for c in cells if c.decoder == "default"]
    large = [c for c in cells if c.side == 28]
    long = [c for c in small if not c.maps and not c.standardised and c.seed != first]
    found = [
        *(
            _whole(f"{step:,} steps, seed {first}", of_first, [step], read)
            for step in (1000, 6000)
        ),
        _over_steps(of_first, read),
        _whole(
            "no maps, 6,000 steps, other seeds", long, [6000], read, lambda c, _: f"seed {c.seed}"
        ),
        _whole(
            "no maps, decoder of the default size",
            wide,
            [1000, 2000, 3000],
            read,
            lambda _, step: f"{step:,} steps",
        ),
        _whole(
            "28x28, maps",
            sorted(large, key=lambda c: c.seed),
            [280, 700, 1500],
            read,
            lambda c, step: f"seed {c.seed}, {step:,} steps",
        ),
    ]
    return "\n".join(table for table in found if table)


def _whole(
    title: str,
    cells: Iterable[Cell],
    steps: Sequence[int],
    read: Read,
    more: Callable[[Cell, int], str] = lambda *_: "",
) -> str:
    rows = []
    for cell in cells:
        for step in steps:
            measured = read.results.get(cell.name, {}).get(step)
            if measured is None:
                continue
            named = ", ".join(filter(None, [_name(cell), more(cell, step)]))
            before = [column(measured) for column in _COLUMNS.values()]
            after = [column(measured) for column in _REST.values()]
            rows.append([named, *before, _to_elbo(cell, step, read), *after])
    return _table([title, *_COLUMNS, "to ELBO", *_REST], rows)


def _over_steps(cells: Iterable[Cell], read: Read) -> str:
    """Usage, NLL and SVM of the cells at each of their stops."""
    columns: dict[str, Callable[[_Measured], str]] = {
        "usage": _COLUMNS["usage"],
        "NLL": lambda m: _number(m["NLL"], 2),
        "SVM": _REST["SVM"],
    }
    rows, stops = [], (350, 1000, 3000, 6000)
    for cell in cells:
        every = [read.results.get(cell.name, {}).get(step) for step in stops]
        if any(every):
            words = [[column(m) if m else "–" for m in every] for column in columns.values()]
            rows.append([_name(cell), *(" / ".join(each) for each in words)])
    return _table(["350 / 1,000 / 3,000 / 6,000 steps", *columns], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _name(cell: Cell) -> str:
    words = ["maps"] * cell.maps or ["no maps"]
    words += ["standardised"] * cell.standardised
    name = cell.objective.replace("MMD, alpha = .5", "MMD at α = .5").replace("beta", "β")
    return ", ".join([*words, name])


def _to_elbo(cell: Cell, step: int, read: Read) -> str:
    other = Cell(cell.side, cell.maps, False, "ELBO", (), cell.seed, cell.decoder)
    if other.name == cell.name:
        return ""
    gap, error = read.gap(cell, other, step)
    return "" if gap != gap else f"{_signed(gap, 2)} ± {_number(error, 2)}"


def _number(value: float, places: int) -> str:
    """A number without the 0 before its point, and with a true minus."""
    text = f"{value:,.{places}f}"
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("-")
    if text.startswith(("0.", "-0.")):
        text = text.replace("0.", ".", 1)
    return text.replace("-", "−")


def _significant(value: float, digits: int = 2) -> str:
    """A number to so many digits, and no more than two places."""
    before = len(f"{abs(value):.0f}") if abs(value) >= 1 else 0
    return _number(value, max(0, min(2, digits - before)))


def _signed(value: float, places: int) -> str:
    text = _number(value, places)
    return text if text.startswith("−") or not text.strip(".0") else f"+{text}"
