"""Rows of data and of a model: images, points and paths."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae.plots.palette import CYCLE, MARKERS, Drawing, line_colours, styled

__all__ = ["canvas", "is_image", "paths", "points", "reconstructions", "samples"]

_BEHIND = "0.88"
"""The grey behind the gaps between images of one channel, which are ink on paper."""


def reconstructions(x: Tensor, mean: Tensor, columns: int = 10) -> Figure:
    """Data and the decoder's mean at their posterior means.

    Args:
        x: data, `(n, *size)`; images `(n, channels, height, width)` are shown as such, one or
            two numbers as points.
        mean: what became of them, same shape.
        columns: images to a row, of four rows each.
    """
    if not is_image(x):
        return points({"data": x, "model": mean})
    rows = []
    for start in range(0, min(len(x), 4 * columns), columns):
        rows += [x[start : start + columns], mean[start : start + columns]]
    return _images(rows, ["data", "model"] * (len(rows) // 2))


def samples(draws: Tensor, x: Tensor | None = None, columns: int = 8) -> Figure:
    """Samples of the model.

    Args:
        draws: `(n, *size)`.
        x: data to show next to points.
        columns: images to a row.
    """
    if is_image(draws):
        return _images(draws.split(columns), [])
    return points({"model": draws} if x is None else {"data": x, "model": draws})


@styled
def points(groups: Mapping[str, Tensor]) -> Figure:
    """Sets of rows in the plane of their first two coordinates; densities of single numbers.

    Rows in which one of them is missing are left out.

    Args:
        groups: `(n, *size)` each, by the name that the legend says.
    """
    figure = Drawing(5.0, 4.4)
    axes: Any = figure.subplots()
    for k, (name, x) in enumerate(groups.items()):
        flat = x.detach().cpu().flatten(1).double().numpy()[:, :2]
        flat = flat[~np.isnan(flat).any(1)]
        colour, marker = CYCLE[k % len(CYCLE)], "ox^s"[k % 4]
        if flat.shape[1] == 1:
            axes.hist(flat[:, 0], bins=40, density=True, color=colour, alpha=0.5, label=name)
            axes.set(xlabel="x", ylabel="density")
        else:
            axes.scatter(
                *flat.T, s=14, marker=marker, color=colour, alpha=0.6,
                linewidths=0.9 if marker == "x" else 0, label=name,
            )  # fmt: skip
            _plane(axes)
    axes.legend()
    return figure


@styled
def paths(named: Mapping[str, Tensor], legend: bool = True) -> Figure:
    """Paths through data space, `(steps, *size)` each, in the plane of two coordinates.

    Args:
        named: paths by name.
        legend: whether to name them in a legend.
    """
    figure = Drawing(5.0, 4.4)
    axes = figure.subplots()
    for k, ((name, path), colour) in enumerate(
        zip(named.items(), line_colours(len(named)), strict=True)
    ):
        flat = path.detach().cpu().flatten(1).double().numpy()
        single = flat.shape[1] == 1
        along = (np.linspace(0, 1, len(flat)), flat[:, 0]) if single else flat.T[:2]
        marker = MARKERS[k % len(MARKERS)]
        axes.plot(*along, marker=marker, ms=3, lw=1.2, color=colour, label=name)
        if single:
            axes.set(xlabel="share of the way", ylabel="x")
        else:
            _plane(axes)
    if legend:
        figure.legend(loc="outside right upper")
    return figure


def is_image(x: Tensor) -> bool:
    """Whether rows are images: `(n, channels, height, width)` with 1 or 3 channels."""
    return x.dim() == 4 and x.shape[1] in (1, 3)


def canvas(rows: Sequence[Sequence[Tensor]], after: int = 1) -> np.ndarray:
    """Images side by side as red, green, blue and opacity, with clear gaps.

    A single channel is ink on paper: a digit's bright strokes are dark.

    Args:
        rows: of blocks of images, each `(n, channels, height, width)`, with a wide gap between
            the blocks of a row.
        after: rows after which a wide gap comes.
    """
    drawn = [[_tiles(block) for block in row] for row in rows]
    height, width = drawn[0][0].shape[1:3]
    thin = _gap(height)
    wide = max(3 * thin, height // 3)
    lengths = [len(block) * (width + thin) - thin for block in drawn[0]]
    across = sum(lengths) + wide * (len(lengths) - 1)
    groups = -(-len(drawn) // after)
    down = len(drawn) * (height + thin) - thin + (groups - 1) * (wide - thin) * (after > 1)
    whole = np.zeros((down, across, 4))
    for i, row in enumerate(drawn):
        top = i * (height + thin) + (i // after) * (wide - thin) * (after > 1)
        left = 0
        for block in row:
            for image in block:
                whole[top : top + height, left : left + width] = image
                left += width + thin
            left += wide - thin
    return whole


@styled
def _images(rows: Sequence[Tensor], labels: Sequence[str]) -> Figure:
    """Rows of images, each with its label."""
    channels, height, width = rows[0].shape[1:]
    cell = 0.62
    across, down = cell * len(rows[0]) + 0.9, cell * len(rows) * height / width + 0.6
    figure = Drawing(max(4.0, across), down)
    axes = figure.subplots()
    axes.grid(visible=False)
    axes.imshow(canvas([[row] for row in rows]), interpolation="nearest")
    axes.set_facecolor(_BEHIND if channels == 1 else "white")
    step = height + _gap(height)
    axes.set_yticks([i * step + height / 2 for i in range(len(labels))], labels)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _tiles(images: Tensor) -> Any:
    """Images as red, green, blue and opacity, `(n, height, width, 4)`; clear where missing."""
    pixels = images.detach().cpu().float().clamp(0, 1).permute(0, 2, 3, 1).numpy()
    there = ~np.isnan(pixels).any(-1, keepdims=True)
    pixels = np.nan_to_num(pixels)
    if pixels.shape[-1] == 1:
        pixels = 1 - pixels.repeat(3, -1)
    return np.concatenate([pixels, there], -1)


def _gap(height: int) -> int:
    """The space between images of so many pixels."""
    return max(1, height // 12)


def _plane(axes: Any) -> None:
    """Names the axes of the first two coordinates, in one unit."""
    axes.set(xlabel="first coordinate of x", ylabel="second coordinate of x")
    axes.set_aspect("equal", adjustable="datalim")
