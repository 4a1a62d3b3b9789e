"""What an experiment is, and its results."""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from ppl_vae import files
from ppl_vae.reproductions.common.kept import Cell, Kept, Measures, finish, read
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = [
    "Found",
    "Reproduction",
    "Results",
    "Scale",
    "by_seed",
    "most",
    "paired",
    "spread",
    "value",
]

Scale = Literal["small", "medium", "full"]
"""`small` takes two CPU minutes a seed at most, `medium` thirty, `full` is the paper's setting."""

Found = Mapping[int, Mapping[str, Measures]]
"""Measures by seed and by the cell's name; what has not been run is not in it."""


@dataclass(frozen=True)
class Results:
    """What an experiment has found so far.

    Attributes:
        columns: names of the table's columns.
        rows: of the table.
        claims: as they are decided by it.
        pictures: paths of those drawn.
        seconds: of CPU time for a seed.
        seeds: how many have been run.
        dates: the days of the runs, in UTC.
        machines: that ran it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    claims: Sequence[Claim]
    pictures: Sequence[Path] = ()
    seconds: float = 0.0
    seeds: int = 0
    dates: Sequence[str] = ()
    machines: Sequence[str] = ()


@dataclass(frozen=True)
class Reproduction:
    """An experiment of cells, each done once for each seed and kept.

    Attributes:
        scales: the settings of each scale there is.
        cells: what is to be done, from a scale's settings.
        columns: the measures that stand in the table, by name.
        claims: what it decides, from whatever has been measured so far, be it nothing. The rules
            are written before the run.
        draw: the pictures, from the measures: draws them into a folder and returns their paths.
    """

    scales: Mapping[Scale, Mapping[str, Any]]
    cells: Callable[..., Sequence[Cell]]
    columns: Sequence[str]
    claims: Callable[[Found], Sequence[Claim]]
    draw: Callable[[Found, Path], Sequence[Path]] = field(default=lambda found, folder: ())

    def run(
        self, folder: Path, scale: Scale, seeds: Sequence[int], end: float = math.inf
    ) -> Results:
        """Does what is not done yet, draws the pictures and returns the results.

        Args:
            folder: of the experiment; each scale has one of its own inside.
            scale: which settings.
            seeds: a run of each cell for each.
            end: when to start nothing more, by `time.monotonic`.
        """
        for seed in seeds:
            for cell in self.cells_at(scale):
                if time.monotonic() < end:
                    finish(cell, seed, folder / scale)
        return self.results(folder, scale, draw=True)

    def results(self, folder: Path, scale: Scale, draw: bool = False) -> Results:
        """What is kept in a folder, of all seeds there.

        Args:
            folder: of the experiment.
            scale: of which settings.
            draw: draw the pictures.
        """
        cells, place = self.cells_at(scale), folder / scale
        kept: dict[int, dict[str, Kept]] = {}
        for seed in _seeds(place):
            found = {cell.name: read(cell, seed, place) for cell in cells}
            there = {name: one for name, one in found.items() if one is not None}
            if there:
                kept[seed] = there
        measures = {
            seed: {name: one.measures for name, one in found.items()}
            for seed, found in kept.items()
        }
        every = [one for found in kept.values() for one in found.values()]
        return Results(
            ["cell", *self.columns, "CPU"],
            self._table(cells, kept),
            self.claims(measures),
            self.draw(measures, files.folder(place)) if draw and every else (),
            median([sum(one.seconds for one in found.values()) for found in kept.values()] or [0]),
            len(kept),
            sorted({one.date for one in every}),
            sorted({one.machine for one in every}),
        )

    def cells_at(self, scale: str) -> Sequence[Cell]:
        """The cells of a scale.

        Raises:
            ValueError: if there is no such scale.
        """
        if scale not in self.scales:
            raise ValueError(f"scale is {scale!r}: this experiment has {', '.join(self.scales)}")
        return self.cells(**self.scales[scale])  # type: ignore[index]

    def _table(
        self, cells: Sequence[Cell], kept: Mapping[int, Mapping[str, Kept]]
    ) -> list[list[str]]:
        """A row for each cell that has been run: its measures' medians with their range."""
        rows = []
        for cell in cells:
            runs = [found[cell.name] for found in kept.values() if cell.name in found]
            if runs:
                numbers = [[run.measures.get(name) for run in runs] for name in self.columns]
                seconds = f"{median(run.seconds for run in runs):.0f} s"
                rows.append([cell.name, *map(spread, numbers), seconds])
        return rows


def _seeds(folder: Path) -> list[int]:
    """The seeds of the cells that are kept in a folder."""
    names = (re.search(r"-seed-(\d+)\.json$", path.name) for path in folder.glob("*.json"))
    return sorted({int(name[1]) for name in names if name})


def spread(numbers: Sequence[float | None]) -> str:
    """The median of numbers, and their least and greatest where there are several."""
    there = [number for number in numbers if number is not None and number == number]
    if not there:
        return "-"
    middle, *ends = (f"{x:.3g}" for x in (median(there), min(there), max(there)))
    return middle if len(there) == 1 or ends[0] == ends[1] else f"{middle} ({' to '.join(ends)})"


def value(cells: Mapping[str, Measures], cell: str, name: str) -> float:
    """A measure, NaN where it has not been made, or was not finite."""
    found = cells.get(cell, {}).get(name)
    return float("nan") if found is None else float(found)


def by_seed(
    found: Found, conditions: Callable[[Mapping[str, Measures]], Sequence[Condition]]
) -> dict[int, Sequence[Condition]]:
    """The conditions of a rule in each seed, and those of seed 0 where nothing has been run."""
    return {seed: conditions(cells) for seed, cells in (found or {0: {}}).items()}


def paired(run: Mapping[str, Measures], a: str, b: str) -> tuple[float, float]:
    """The NLL of cell a less that of b over the same rows, and its standard error."""
    rows = [run.get(name, {}).get("NLL by row") for name in (a, b)]
    if rows[0] is None or rows[1] is None:
        return float("nan"), float("nan")
    gap = torch.tensor(rows[0], dtype=torch.float64) - torch.tensor(rows[1], dtype=torch.float64)
    return float(gap.mean()), float(gap.std()) / len(gap) ** 0.5


def most(numbers: Sequence[float]) -> float:
    """The largest of numbers, NaN where one of them is."""
    return float(torch.tensor(numbers, dtype=torch.float64).max())
