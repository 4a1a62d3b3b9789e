"""The claims of the source papers and our own, each reproduced by `ppl-vae reproduce NAME`.

A module here is one experiment. Its docstring says what is shown and how it is measured, and its
`run(out, seed)` returns a table as `{"columns": [...], "rows": [[...], ...], "pictures": [...]}`,
and what is to be printed below it as `"text"`.
"""

from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from ppl_vae import files

__all__ = ["reproduce"]


def names() -> list[str]:
    """The experiments there are."""
    return sorted(module.name for module in iter_modules(__path__))


def reproduce(
    name: str,
    out: str = "runs/reproduce",
    seed: int = 0,
    seeds: int | None = None,
    minutes: float | None = None,
) -> None:
    """Runs one experiment of the source papers, and prints its table.

    Args:
        name: the experiment; "list" names them all.
        out: folder that gets a folder of its name, with table.txt and the pictures. An experiment
            of many trainings keeps those it has finished there, and goes on with them.
        seed: of all that is drawn.
        seeds: how many seeds, from `seed` on, where an experiment has a choice.
        minutes: start nothing new after so many, and print what there is; for experiments of many
            trainings.
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
    options = {"seeds": seeds, "minutes": minutes}
    given = {key: value for key, value in options.items() if value is not None}
    for key in given.keys() - signature(module.run).parameters.keys():
        raise ValueError(f"{name} takes no --{key}")
    folder = Path(out, name)
    files.folder(folder)
    result = module.run(folder, seed, **given)
    table = as_table(result) + result.get("text", "")
    files.write_text(folder / "table.txt", table)
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
