"""Pictures of the cells: what becomes of sd, spread and usage over the steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ppl_vae.reproductions.information_preference.cells import Cell

__all__ = ["over_steps"]

_STEPS = [50, 350, 1000, 6000]
_PANELS = ("sd of q(z | x)", "spread of the means", "usage, nats")


def over_steps(
    cells: Sequence[Cell],
    curves: Mapping[str, Sequence[Sequence[float]]],
    results: Mapping[str, Mapping[int, Mapping[str, Any]]],
    path: Path,
) -> None:
    """Draws the mean sd and the spread of the means in training, and usage where it was measured.

    Args:
        cells: a line each.
        curves: step, sd and spread by the cell's name.
        results: measures by the cell's name and the step.
        path: of the picture.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    for cell in cells:
        label = f"{'maps' if cell.maps else 'no maps'}, {'standardised ' * cell.standardised}"
        style = {"linestyle": "-" if cell.maps else "--", "linewidth": 1.4}
        label += cell.objective
        steps, *columns = zip(*curves[cell.name], strict=True)
        lines = [(steps, column) for column in columns]
        usage = {s: m["usage"] for s, m in sorted(results.get(cell.name, {}).items())}
        lines.append((tuple(usage), tuple(usage.values())))
        for axis, (x, y) in zip(axes, lines, strict=True):
            axis.plot(x, y, label=label, **style)
    for axis, title in zip(axes, _PANELS, strict=True):
        axis.set(title=title, xlabel="step", xscale="log")
        axis.set_xticks(_STEPS, list(map(str, _STEPS)), minor=False)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(bottom=0)
    axes[2].set_yscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=150)
