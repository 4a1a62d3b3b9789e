"""What runs look like: figures that pages and files share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ppl_vae.plots.diagnostics import CYCLE
from ppl_vae.plots.results import Epochs

__all__ = [
    "COLOURS",
    "canvas",
    "class_name",
    "clean",
    "codes_figure",
    "curves_figure",
    "gap",
    "plane",
    "points_figure",
    "rate_distortion_figure",
]

# Ten colours that keep apart under the common colour-vision deficiencies (M. A. Petroff, 2021,
# arXiv:2107.02270).
COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)


def curves_figure(histories: Mapping[str, Epochs]) -> Figure:
    """Loss and terms against epochs, a colour to a run; held out solid, training dotted."""
    wanted = ("loss", "reconstruction", "rate", "divergence")
    kinds = [k for k in wanted if any(k in h.names for h in histories.values())]
    figure = Figure(figsize=(3.1 * len(kinds), 3.2), layout="constrained")
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        seen: list[float] = []
        for k, (name, history) in enumerate(histories.items()):
            held = f"validation/{kind}"
            for column, style, part in ((kind, ":", "training"), (held, "-", "held out")):
                if column not in history.names:
                    continue
                solid = "-" if held not in history.names else style
                values = history[column]
                seen += [v for v in values if math.isfinite(v)]
                # matplotlib leaves out of a legend what starts with an underscore
                several = f"\u200b{name}" if solid == "-" else None
                axes.plot(
                    history["epoch"], values, solid, marker="o" if len(values) < 3 else "",
                    color=CYCLE[k % len(CYCLE)], label=several if name else part,
                )  # fmt: skip
        if kind in ("rate", "divergence"):
            axes.axhline(0, color="black", lw=0.6, alpha=0.5)
        elif len(seen) > 40:
            # the first epochs are far above the rest; they are left out of the range
            low, top = min(seen), float(np.quantile(seen, 0.95))
            axes.set_ylim(low - 0.06 * (top - low), top + 0.1 * (top - low))
        axes.set_title(kind, fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        clean(axes)
        if kind in ("divergence", kinds[0]):
            axes.set_ylabel("its own unit" if kind == "divergence" else "nats per datum")
    handles = figure.axes[0].get_legend_handles_labels()
    legend = figure.legend(
        *handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def codes_figure(codes: Tensor, labels: Tensor | None, classes: Sequence[str] = ()) -> Figure:
    """Codes in the plane, by class: as they are, or their first two principal axes."""
    flat = codes.detach().cpu().double()
    d = flat.shape[1]
    names = ["first coordinate of z", "second coordinate of z"]
    if d == 1:
        flat = torch.cat([flat, torch.linspace(-1, 1, len(flat)).double()[:, None]], 1)
        names[1] = "row (spread out)"
    elif d > 2:
        centred = flat - flat.mean(0)
        _, values, basis = torch.linalg.svd(centred, full_matrices=False)
        # a sign for each axis, so that the picture does not depend on the solver's
        basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
        share = 100 * values.square() / values.square().sum()
        flat = centred @ basis[:2].T
        names = [f"principal axis {k + 1} ({share[k]:.0f} % of variance)" for k in (0, 1)]
    figure = Figure(figsize=(5.4, 5.0), layout="constrained")
    axes = clean(figure.subplots())
    where = flat.numpy()
    kinds = np.zeros(len(where), int) if labels is None else labels.cpu().numpy()
    size = float(np.clip(9000 / len(where), 4, 26))
    for kind in np.unique(kinds):
        here = where[kinds == kind]
        colour = COLOURS[kind % len(COLOURS)]
        name = None if labels is None else class_name(kind, classes)
        axes.scatter(
            *here.T, s=size, color=colour, alpha=0.75, linewidths=0, rasterized=True, label=name
        )
        if name is not None:
            # the name stands in the middle of its class: colour is not the only clue
            axes.annotate(
                name, np.median(here, 0),
                fontsize=10, weight="bold", ha="center", va="center", zorder=4, parse_math=False,
                bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": colour, "alpha": 0.85},
            )  # fmt: skip
    axes.set(xlabel=names[0], ylabel=names[1])
    if d > 1:
        axes.set_aspect("equal", adjustable="datalim")
    return figure


def points_figure(groups: Mapping[str, Tensor]) -> Figure:
    """Sets of rows in the plane of their first two coordinates; densities of single numbers.

    Rows in which one of them is missing are left out.
    """
    figure = Figure(figsize=(5.0, 4.4), layout="constrained")
    axes = clean(figure.subplots())
    for k, (name, x) in enumerate(groups.items()):
        flat = x.detach().cpu().flatten(1).double().numpy()[:, :2]
        flat = flat[~np.isnan(flat).any(1)]
        colour, marker = CYCLE[k % len(CYCLE)], "ox^s"[k % 4]
        if flat.shape[1] == 1:
            axes.hist(flat[:, 0], bins=40, density=True, color=colour, alpha=0.5, label=name)
            axes.set(xlabel="x", ylabel="density")
        else:
            axes.scatter(
                flat[:, 0], flat[:, 1], s=14, marker=marker, color=colour, alpha=0.6,
                linewidths=0.9 if marker == "x" else 0, label=name,
            )  # fmt: skip
            plane(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def plane(axes: Any) -> None:
    """Names the axes of the first two coordinates, in one unit."""
    axes.set(xlabel="first coordinate of x", ylabel="second coordinate of x")
    axes.set_aspect("equal", adjustable="datalim")


def class_name(label: int, classes: Sequence[str]) -> str:
    """What a picture calls a class: its name, or its number; negative ones are not known."""
    if label < 0:
        return "unknown"
    return classes[label] if label < len(classes) else str(label)


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
    thin = gap(height)
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


def _tiles(images: Tensor) -> Any:
    """Images as red, green, blue and opacity, `(n, height, width, 4)`; clear where missing."""
    pixels = images.detach().cpu().float().clamp(0, 1).permute(0, 2, 3, 1).numpy()
    there = ~np.isnan(pixels).any(-1, keepdims=True)
    pixels = np.nan_to_num(pixels)
    if pixels.shape[-1] == 1:
        pixels = 1 - pixels.repeat(3, -1)
    return np.concatenate([pixels, there], -1)


def gap(height: int) -> int:
    """The space between images of so many pixels."""
    return max(1, height // 12)


def clean(axes: Any) -> Any:
    """Axes without a box, over a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.2, lw=0.6)
    axes.set_axisbelow(True)
    return axes


def rate_distortion_figure(
    groups: Mapping[str, Sequence[Mapping[str, float | None]]],
) -> Figure | None:
    """Runs by rate and distortion, a panel for likelihood and one for probe as colour.

    None where no run has a rate and a distortion.
    """
    shown = {"log_likelihood": "log p(x)", "probe_linear": "linear probe"}
    points = [
        (group, run["rate"], run["distortion"], run)
        for group, runs in groups.items()
        for run in runs
        if run.get("rate") is not None and run.get("distortion") is not None
    ]
    if not points:
        return None
    kinds = [k for k in shown if any(run.get(k) is not None for *_, run in points)] or [""]
    figure = Figure(figsize=(4.6 * len(kinds), 3.9), layout="constrained")
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        values = [run.get(kind) for *_, run in points]
        colours = [math.nan if value is None else value for value in values]
        drawn = axes.scatter(
            [rate for _, rate, *_ in points], [d for _, _, d, _ in points],
            c=colours if kind else CYCLE[0], s=46, cmap="viridis", edgecolor="black", lw=0.5,
            plotnonfinite=True,
        )  # fmt: skip
        seen: set[str] = set()
        for group, rate, distortion, _ in points:
            if group not in seen:  # one label to a setting
                seen.add(group)
                axes.annotate(
                    group, (rate, distortion), (5, 4), textcoords="offset points", fontsize=7,
                    parse_math=False,
                )  # fmt: skip
        axes.set_xlabel("rate")
        axes.set_ylabel("distortion")
        axes.margins(0.14)
        clean(axes)
        if kind:
            figure.colorbar(drawn, ax=axes, label=shown[kind])
    return figure
