"""The claims of the source papers and our own, each reproduced by `ppl-vae reproduce NAME`.

A module here is one experiment. Its docstring says what is shown and how it is measured, and its
`run(out, seed)` returns a table as `{"columns": [...], "rows": [[...], ...], "pictures": [...]}`.
"""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

__all__ = ["as_table", "names", "reproduce"]


def names() -> list[str]:
    """The experiments there are."""
    return sorted(module.name for module in iter_modules(__path__))


def reproduce(name: str, out: str = "runs/reproduce", seed: int = 0) -> None:
    """Runs one experiment of the source papers, and prints its table.

    Args:
        name: the experiment; "list" names them all.
        out: folder that gets a folder of its name, with table.txt and the pictures.
        seed: of all that is drawn.
    """
    if name == "list":
        for known in names():
            text = import_module(f"{__name__}.{known}").__doc__ or ""
            print(f"{known:20} {text.splitlines()[0]}")
        return
    name = name.replace("-", "_")
    if name not in names():
        raise ValueError(f"there is no experiment {name!r}; experiments: {', '.join(names())}")
    module = import_module(f"{__name__}.{name}")
    folder = Path(out, name)
    folder.mkdir(parents=True, exist_ok=True)
    result = module.run(folder, seed)
    table = as_table(result)
    (folder / "table.txt").write_text(table, encoding="utf-8")
    print(table)
    for picture in result.get("pictures", []):
        print(picture)


def as_table(result: dict[str, Any]) -> str:
    """Columns and rows as aligned text."""
    cells = [[str(c) for c in result["columns"]]]
    cells += [[_cell(value) for value in row] for row in result["rows"]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
