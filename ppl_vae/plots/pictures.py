"""Pictures of a run, drawn without a display."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae import files
from ppl_vae.plots.columns import columns_figure
from ppl_vae.plots.figures import (
    canvas,
    codes_figure,
    curves_figure,
    gap,
    points_figure,
    rate_distortion_figure,
)
from ppl_vae.plots.results import Epochs

__all__ = ["columns", "curves", "latent", "rate_distortion", "reconstructions", "samples"]

_DPI = 150
_PLAIN = "#444444"


def reconstructions(x: Tensor, mean: Tensor, path: str | Path, columns: int = 10) -> None:
    """Draws data beside the decoder's mean at their posterior means.

    Args:
        x: data, `(n, *size)`; images `(n, channels, height, width)` are shown as such, one or
            two numbers as points.
        mean: what became of them, same shape.
        path: the file to write.
        columns: images to a row.
    """
    title = "Held-out data and their reconstructions"
    if is_image(x):
        rows = []
        for start in range(0, min(len(x), 4 * columns), columns):
            rows += [x[start : start + columns], mean[start : start + columns]]
        labels = ["data" if i % 2 == 0 else "model" for i in range(len(rows))]
        _save(_grid(rows, labels), path, title)
    else:
        _save(points_figure({"data": x, "model": mean}), path, title)


def samples(
    draws: Tensor,
    path: str | Path,
    x: Tensor | None = None,
    columns: int = 8,
    title: str = "Samples of the model",
) -> None:
    """Draws samples of the model: the decoder's means at draws of the prior.

    Args:
        draws: `(n, *size)`.
        path: the file to write.
        x: data to show beside points.
        columns: images to a row.
        title: what images are of.
    """
    if is_image(draws):
        _save(_grid(draws.split(columns), []), path, title)
    else:
        groups = {"model": draws} if x is None else {"data": x, "model": draws}
        _save(points_figure(groups), path, title)


def latent(
    codes: Tensor,
    labels: Tensor | None,
    path: str | Path,
    classes: Sequence[str] = (),
    radius: bool = True,
) -> None:
    """Draws codes in the plane, coloured by class: as they are, or their first two principal axes.

    Args:
        codes: `(n, d)`.
        labels: `(n,)` class indices, or None.
        path: the file to write.
        classes: names of the classes.
        radius: draw the circles that hold 50 and 95 % of a standard normal prior.
    """
    figure = codes_figure(codes, labels, classes)
    if radius and codes.shape[1] > 1:
        for share, style in ((0.5, "--"), (0.95, ":")):
            r = float(np.sqrt(-2 * np.log(1 - share)))
            turn = np.linspace(0, 2 * np.pi, 200)
            axes = figure.axes[0]
            axes.plot(r * np.cos(turn), r * np.sin(turn), style, zorder=0, lw=0.8, color=_PLAIN)
            axes.annotate(
                f"{100 * share:.0f} % of the prior", (0, -r), fontsize=7, color=_PLAIN,
                ha="center", va="center", zorder=3,
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
            )  # fmt: skip
    if labels is not None:
        legend = figure.legend(loc="outside right upper", title="class", frameon=False, fontsize=9)
        for handle in filter(None, legend.legend_handles):
            handle.set(sizes=[40], alpha=1)
    _save(figure, path, f"Posterior means, d = {codes.shape[1]}")


def curves(history: Epochs, path: str | Path) -> None:
    """Draws the loss and each kind of term against epochs, held out solid, training dotted.

    Args:
        history: of the training.
        path: the file to write.
    """
    _save(curves_figure({"": history}), path, "Training")


def rate_distortion(
    groups: Mapping[str, Sequence[Mapping[str, float | None]]], path: str | Path
) -> bool:
    """Draws the rate against the distortion of runs, with likelihood and probe as colours.

    Args:
        groups: the numbers of runs by the names of metrics, for each setting.
        path: the file to write.

    Returns:
        Whether there was anything to draw.
    """
    figure = rate_distortion_figure(groups)
    if figure is None:
        return False
    _save(figure, path, "Rate and distortion, held out, nats per datum")
    return True


def is_image(x: Tensor) -> bool:
    """Whether rows are images: `(n, channels, height, width)` with 1 or 3 channels."""
    return x.dim() == 4 and x.shape[1] in (1, 3)


def columns(
    data: Mapping[str, np.ndarray[Any, Any]],
    model: Mapping[str, np.ndarray[Any, Any]],
    path: str | Path,
    classes: Collection[str] = (),
    paired: bool = False,
    title: str = "",
) -> None:
    """Draws the columns of a table beside those of a model; see `columns_figure`.

    Args:
        data: the values of each column by name.
        model: the same of the model.
        path: the file to write.
        classes: which columns hold classes.
        paired: whether the rows of one are those of the other.
        title: of the picture.
    """
    _save(columns_figure(data, model, classes, paired), path, title)


def _grid(rows: Sequence[Tensor], labels: Sequence[str]) -> Figure:
    """Rows of images, each with its label."""
    channels, height, width = rows[0].shape[1:]
    cell = 0.62
    across, down = cell * len(rows[0]) + 0.9, cell * len(rows) * height / width + 0.6
    figure = Figure(figsize=(max(4.0, across), down), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas([[row] for row in rows]), interpolation="nearest")
    axes.set_facecolor("0.88" if channels == 1 else "white")  # behind the gaps
    step = height + gap(height)
    axes.set_yticks([i * step + height / 2 for i in range(len(labels))], labels, fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _save(figure: Figure, path: str | Path, title: str) -> None:
    figure.suptitle(title, fontsize=11)
    path = Path(path) if Path(path).suffix else Path(path).with_suffix(".png")
    with files.written(path) as draft:
        # no time stamp, so that the same run gives the same file
        figure.savefig(draft, dpi=_DPI, metadata={"Software": None})
