"""The claims of the source papers and our own, each reproduced by `ppl-vae reproduce NAME`.

A module here is one experiment: its docstring says what is shown, how it is measured and what the
source says, and its `EXPERIMENT` holds the cells, the claims with the rules that decide them, and
the pictures (`common.reproduction`). Finished cells are kept as JSON, so that a run that was
interrupted goes on, and the table of all claims grows from one run to the next (`common.table`).
"""

import math
import time
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from ppl_vae import files
from ppl_vae.reproductions.common.reproduction import Results, Scale

__all__ = ["reproduce", "verdicts"]


def names() -> list[str]:
    """The experiments there are."""
    return sorted(module.name for module in iter_modules(__path__) if module.name != "common")


def experiment(name: str) -> Any:
    """An experiment by its name.

    Args:
        name: with underscores or hyphens.

    Raises:
        ValueError: if there is none.
    """
    name = name.replace("-", "_")
    if name not in names():
        raise ValueError(f"there is no experiment {name!r}; experiments: {', '.join(names())}")
    return import_module(f"{__name__}.{name}").EXPERIMENT


def title(name: str) -> str:
    """What an experiment shows, in a line."""
    text = import_module(f"{__name__}.{name}").__doc__ or ""
    return text.splitlines()[0].removesuffix(".")


def reproduce(
    name: str,
    scale: Scale = "small",
    seeds: int = 3,
    seed: int = 0,
    minutes: float | None = None,
    out: str = "runs/reproduce",
) -> None:
    """Runs one experiment of the source papers, and prints its table and its verdicts.

    What has been finished is kept in the folder and not done again.

    Args:
        name: the experiment; "list" names them all, "all" runs each that has the scale, and
            "table" writes the table of all claims next to the folder, from what is kept in it.
        scale: small takes two CPU minutes a seed at most, medium thirty; full is the paper's
            setting, for a GPU.
        seeds: how many.
        seed: the first of them.
        minutes: start nothing new after so many, and print what there is.
        out: folder that gets a folder of the experiment's name.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}: one or more are needed")
    if name == "list":
        for known in names():
            print(f"{known:22} {title(known)} ({', '.join(experiment(known).scales)})")
        return
    if name == "table":
        from ppl_vae.reproductions.common.table import table

        path = Path(out).parent / "reproduction.md"
        every = {known: experiment(known) for known in names()}
        files.write_text(path, table(every, {known: title(known) for known in names()}, Path(out)))
        print(path)
        return
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    whole = name == "all"
    for known in names() if whole else [name.replace("-", "_")]:
        found = experiment(known)
        if whole and scale not in found.scales:
            continue
        if whole:
            print(f"{known}\n")
        try:
            folder = Path(out, known)
            results = found.run(folder, scale, range(seed, seed + seeds), end)
        except FileNotFoundError as error:
            if not whole:
                raise
            print(f"{error}\n")
            continue
        text = as_text(results)
        files.write_text(files.folder(folder) / f"{scale}.txt", text)
        print(text)
        for picture in results.pictures:
            print(picture)


def verdicts(*names: str, out: str | Path = "docs/reproductions") -> str:
    """What is kept of some experiments, as a table in Markdown: the claims, the sources' figures
    and ours with the bounds of the rules, and the verdicts.

    Args:
        names: of experiments.
        out: folder with a folder for each, as `reproduce` leaves it.

    Raises:
        ValueError: if there is no such experiment.
    """
    from ppl_vae.reproductions.common.table import excerpt

    return excerpt({name: experiment(name) for name in names}, Path(out))


def as_text(results: Results) -> str:
    """Columns and rows as aligned text, and the claims with their rules and verdicts."""
    cells = [list(results.columns), *map(list, results.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, "-" * len(lines[0]))
    lines += [line for claim in results.claims for line in ["", *claim.lines()]]
    return "\n".join(lines) + "\n"
