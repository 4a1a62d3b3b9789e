"""Pictures of measures: lines over a setting or over steps, and rows of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.plots.palette import GREY, MARKERS, Drawing, line_colours, logarithmic, styled
from ppl_vae.reproductions.common.measures import unpacked
from ppl_vae.reproductions.common.reproduction import Found

__all__ = ["bars", "curves", "images", "lines", "samples"]

Series = Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]
"""Curves by name: the x and y of each seed."""


def curves(found: Found, cells: Mapping[str, str], key: str = "curve") -> Series:
    """The curves that cells keep as pairs of x and y, one for each seed.

    Args:
        found: measures.
        cells: names of cells, by what the picture calls them.
        key: the measure's name.
    """
    series: dict[str, Any] = {}
    for shown, cell in cells.items():
        there = [run[cell][key] for run in found.values() if cell in run]
        series[shown] = [tuple(zip(*curve, strict=True)) for curve in there]
    return series


@styled
def lines(
    path: Path,
    panels: Mapping[str, Series],
    label: str,
    *,
    title: str = "",
    log: Mapping[str, str] | None = None,
    ticks: Sequence[float] = (),
    marks: Mapping[str, float] | None = None,
) -> Path:
    """A panel for each measure, a colour for each series, a line for each seed.

    Args:
        path: of the picture.
        panels: series by the panel's title.
        label: of the x axis.
        title: above all.
        log: the axes that are logarithmic, "x", "y" or "xy", by the panel's title.
        ticks: of the x axes.
        marks: a value that a dashed line stands at, by the panel's title.
    """
    figure = Drawing(3.4 * len(panels) + 0.6, 3.4)
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    looks = dict(zip(names, zip(line_colours(len(names)), MARKERS, strict=False), strict=True))
    handles: dict[str, Any] = {}
    for axes, (panel, series) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, curves in series.items():
            colour, marker = looks[name]
            for x, y in curves:
                drawn = axes.plot(
                    x, y, color=colour, marker=marker if len(x) < 15 else None, alpha=0.8
                )
                handles.setdefault(name, drawn[0])
        for letter in (log or {}).get(panel, ""):
            logarithmic(axes, letter)
        if ticks:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        if marks is not None and panel in marks:
            axes.axhline(marks[panel], color=GREY, linestyle="--", linewidth=0.9)
        axes.set(title=panel, xlabel=label)
    if len(names) > 1:
        across = min(6, 2 * len(panels) + 1, len(names))
        where = "outside lower center"
        figure.legend([*handles.values()], [*handles], loc=where, ncols=across)
    plots.save(figure, path, title)
    return path


def images(path: Path, rows: Sequence[Tensor], title: str) -> Path:
    """Rows of as many images each."""
    plots.save(plots.samples(torch.cat([*rows]), columns=len(rows[0])), path, title)
    return path


def samples(found: Found, folder: Path, names: Sequence[str]) -> Sequence[Path]:
    """The samples that cells of the first seed keep, below the data if the first keeps any."""
    seed, run = next(iter(found.items()))
    there = [name for name in names if name in run]
    data = [unpacked(run[name]["data"]) for name in there[:1] if "data" in run[name]]
    rows = [*data, *(unpacked(run[name]["samples"]) for name in there)]
    title = f"{'data, then ' * len(data)}samples of: {'; '.join(there)} (seed {seed})"
    return [images(folder / "samples.png", rows, title)]


@styled
def bars(path: Path, parts: Mapping[str, Mapping[str, float]], label: str, title: str) -> Path:
    """A bar of stacked parts for each name."""
    figure = Drawing(1.2 * len(parts) + 3, 3.4)
    axes = figure.subplots()
    names = list(next(iter(parts.values())))
    below = [0.0] * len(parts)
    for name, colour in zip(names, line_colours(len(names)), strict=True):
        heights = [found[name] for found in parts.values()]
        axes.bar(list(parts), heights, bottom=below, color=colour, label=name)
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axes.set(ylabel=label, title=title)
    figure.legend(loc="outside right center")
    plots.save(figure, path)
    return path
