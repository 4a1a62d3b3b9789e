"""Pictures of the cells: sd, spread and usage over the steps, and samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread, imsave
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from ppl_vae import files, plots
from ppl_vae.plots.palette import CLASSES, GREY, Drawing, logarithmic, styled
from ppl_vae.reproductions.information_preference.cells import OBJECTIVES, Cell

__all__ = ["over_steps", "stacked"]

_STEPS = [50, 350, 1000, 6000]
_NONE = 0.01
_PANELS = ("sd of q(z | x)", "spread of the means", "usage, nats")


@styled
def over_steps(
    cells: Sequence[Cell],
    curves: Mapping[str, Sequence[Sequence[float]]],
    results: Mapping[str, Mapping[int, Mapping[str, Any]]],
    path: Path,
) -> None:
    """Draws the mean sd and the spread of the means in training, and usage where it was measured.

    A row of panels for decoders with maps and one for those without, a colour for each objective;
    standardised encoders are dashed. A usage of less than .01, which is none, stands at .01.

    Args:
        cells: a line each.
        curves: step, sd and spread by the cell's name.
        results: measures by the cell's name and the step.
        path: of the picture.
    """
    figure = Drawing(11, 7)
    panels = figure.subplots(2, 3, sharex=True, sharey="col")
    colours = dict(zip(OBJECTIVES, CLASSES, strict=False))
    for cell in cells:
        steps, *columns = zip(*curves[cell.name], strict=True)
        measured = sorted(results.get(cell.name, {}).items())
        usage = {step: max(found["usage"], _NONE) for step, found in measured}
        lines = [*((steps, column) for column in columns), (tuple(usage), tuple(usage.values()))]
        for axis, (x, y) in zip(panels[0 if cell.maps else 1], lines, strict=True):
            axis.plot(
                x,
                y,
                color=colours[cell.objective],
                linestyle="--" if cell.standardised else "-",
                marker="o" if x is lines[-1][0] else None,
            )
    for row, words in zip(panels, ("maps", "no maps"), strict=True):
        for axis, title in zip(row, _PANELS, strict=True):
            axis.set_title(f"{title} ({words})")
            logarithmic(axis, "x", "y")
            axis.set_xticks(_STEPS, list(map(str, _STEPS)), minor=False)
            axis.xaxis.set_minor_locator(NullLocator())
    for axis in panels[1]:
        axis.set_xlabel("step")
    panels[0][1].set_ylim(bottom=1e-3)  # less is no code at all
    met = {cell.objective for cell in cells}
    handles = [Line2D([], [], color=c, label=name) for name, c in colours.items() if name in met]
    handles.append(Line2D([], [], color=GREY, linestyle="--", label="standardised encoder"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    plots.save(figure, path)


def stacked(pictures: Sequence[Path], path: Path) -> None:
    """Puts pictures below each other, white beside the narrower ones.

    Args:
        pictures: PNG files.
        path: of the new one.
    """
    images = [imread(picture)[..., :3] for picture in pictures]
    width = max(image.shape[1] for image in images)
    wide = [
        np.pad(image, ((0, 0), (0, width - image.shape[1]), (0, 0)), constant_values=1.0)
        for image in images
    ]
    with files.written(path) as draft:
        imsave(draft, np.concatenate(wide), format="png")
