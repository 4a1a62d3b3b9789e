"""Charts and image grids for the report: SVG and PNG, drawn without a display.

An SVG is drawn in black on white; `themed` lets it follow the page into the dark.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ppl_vae.plots.diagnostics import CYCLE, plot_coverage, plot_pareto_k, plot_sbc
from ppl_vae.plots.pictures import COLOURS, class_name
from ppl_vae.plots.results import Epochs, Intervals, KHats, Ranks

__all__ = [
    "codes",
    "coverage",
    "curves",
    "grid",
    "khat",
    "lines",
    "points",
    "ranks",
    "themed",
]

PAPER, INK = ("#ffffff", "#161b22"), ("#1f2328", "#d1d7e0")
"""The page's colours, light and dark."""

_WIDTH = 640


def curves(histories: Mapping[str, Epochs]) -> str:
    """Loss and terms against epochs, a colour to a run; held out solid, training dotted.

    Args:
        histories: of each run, by its name.
    """
    wanted = ("loss", "reconstruction", "rate", "divergence")
    kinds = [k for k in wanted if any(k in h.names for h in histories.values())]
    figure = Figure(figsize=(3.1 * len(kinds), 3.2), layout="constrained")
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        seen: list[float] = []
        for k, (name, history) in enumerate(histories.items()):
            colour = CYCLE[k % len(CYCLE)]
            held = f"validation/{kind}"
            for column, style in ((kind, ":"), (held, "-")):
                if column not in history.names:
                    continue
                solid = "-" if held not in history.names else style
                values = history[column]
                seen += [v for v in values if math.isfinite(v)]
                marker = "o" if len(values) < 3 else ""
                # matplotlib leaves out of a legend what starts with an underscore
                label = f"\u200b{name}" if solid == "-" else None
                axes.plot(
                    history["epoch"], values, solid, marker=marker, color=colour, label=label
                )
        if kind in ("rate", "divergence"):
            axes.axhline(0, color="black", lw=0.6, alpha=0.5)
        elif len(seen) > 40:
            # the first epochs are far above the rest; they are left out of the range
            low, top = min(seen), float(np.quantile(seen, 0.95))
            axes.set_ylim(low - 0.06 * (top - low), top + 0.1 * (top - low))
        axes.set_title(kind, fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        _clean(axes)
    first = figure.axes[0]
    first.set_ylabel("nats per datum")
    handles = first.get_legend_handles_labels()
    legend = figure.legend(
        *handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _svg(figure)


def codes(mean: Tensor, labels: Tensor | None, classes: Sequence[str] = ()) -> str:
    """Posterior means in the plane, by class: as they are, or their first two principal axes.

    Args:
        mean: `(n, d)`; 4,000 rows at most are drawn.
        labels: `(n,)` class indices.
        classes: their names.
    """
    flat = mean.detach().cpu().double()[:4000]
    d = flat.shape[1]
    names = ["first coordinate of z", "second coordinate of z"]
    if d == 1:
        flat = torch.cat([flat, torch.linspace(-1, 1, len(flat)).double()[:, None]], 1)
        names[1] = "row (spread out)"
    elif d > 2:
        centred = flat - flat.mean(0)
        _, values, basis = torch.linalg.svd(centred, full_matrices=False)
        basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
        share = 100 * values.square() / values.square().sum()
        flat = centred @ basis[:2].T
        names = [f"principal axis {k + 1} ({share[k]:.0f} % of variance)" for k in (0, 1)]
    figure = Figure(figsize=(5.4, 5.0), layout="constrained")
    axes = _clean(figure.subplots())
    where = flat.numpy()
    kinds = np.zeros(len(where), int) if labels is None else labels.cpu().numpy()[: len(where)]
    size = float(np.clip(9000 / len(where), 4, 26))
    for kind in np.unique(kinds):
        here = where[kinds == kind]
        colour = COLOURS[kind % len(COLOURS)]
        axes.scatter(*here.T, s=size, color=colour, alpha=0.75, linewidths=0, rasterized=True)
        if labels is not None:
            # the name stands in the middle of its class: colour is not the only clue
            axes.annotate(
                class_name(kind, classes), np.median(here, 0),
                fontsize=10, weight="bold", ha="center", va="center", zorder=4, parse_math=False,
                bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": colour, "alpha": 0.85},
            )  # fmt: skip
    axes.set(xlabel=names[0], ylabel=names[1])
    if d > 1:
        axes.set_aspect("equal", adjustable="datalim")
    return _svg(figure)


def points(groups: Mapping[str, Tensor]) -> str:
    """Sets of rows in the plane of their first two coordinates; densities of single numbers."""
    figure = Figure(figsize=(5.0, 4.4), layout="constrained")
    axes = _clean(figure.subplots())
    for k, (name, x) in enumerate(groups.items()):
        flat = x.detach().cpu().flatten(1).double().numpy()
        colour, marker = CYCLE[k % len(CYCLE)], "ox^s"[k % 4]
        if flat.shape[1] == 1:
            axes.hist(flat[:, 0], bins=40, density=True, color=colour, alpha=0.5, label=name)
        else:
            axes.scatter(
                flat[:, 0], flat[:, 1], s=14, marker=marker, color=colour, alpha=0.6,
                linewidths=0.9 if marker == "x" else 0, label=name,
            )  # fmt: skip
    _label(axes, flat.shape[1])
    axes.legend(frameon=False, fontsize=9)
    return _svg(figure)


def lines(paths: Mapping[str, Tensor], every: bool = True) -> str:
    """Paths through data space, `(steps, *size)` each, in the plane of two coordinates.

    Args:
        paths: by name.
        every: name each path in a legend.
    """
    figure = Figure(figsize=(5.0, 4.4), layout="constrained")
    axes = _clean(figure.subplots())
    for k, (name, path) in enumerate(paths.items()):
        flat = path.detach().cpu().flatten(1).double().numpy()
        colour = COLOURS[k % len(COLOURS)]
        across = np.linspace(0, 1, len(flat)) if flat.shape[1] == 1 else flat[:, 0]
        up = flat[:, 0] if flat.shape[1] == 1 else flat[:, 1]
        axes.plot(across, up, "-o", ms=3, lw=1.2, color=colour, label=name if every else None)
    if flat.shape[1] == 1:
        axes.set(xlabel="share of the way", ylabel="x")
    else:
        _label(axes, 2)
    if every:
        axes.legend(frameon=False, fontsize=8, ncols=2)
    return _svg(figure)


def grid(rows: Sequence[Sequence[Tensor]], after: int = 1) -> bytes:
    """Images side by side as a PNG, with clear gaps; a single channel is ink on paper.

    Args:
        rows: of blocks of images, each `(n, channels, height, width)`, with a wide gap between
            the blocks of a row.
        after: rows after which a wide gap comes.
    """
    from matplotlib.image import imsave

    drawn = [[_tiles(block) for block in row] for row in rows]
    height, width = drawn[0][0].shape[1:3]
    thin = max(1, height // 12)
    wide = max(3 * thin, height // 3)
    lengths = [len(block) * (width + thin) - thin for block in drawn[0]]
    across = sum(lengths) + wide * (len(lengths) - 1)
    groups = -(-len(drawn) // after)
    down = len(drawn) * (height + thin) - thin + (groups - 1) * (wide - thin) * (after > 1)
    canvas = np.zeros((down, across, 4))
    for i, row in enumerate(drawn):
        top = i * (height + thin) + (i // after) * (wide - thin) * (after > 1)
        left = 0
        for block in row:
            for image in block:
                canvas[top : top + height, left : left + width] = image
                left += width + thin
            left += wide - thin
    times = max(1, -(-_WIDTH // across))
    file = io.BytesIO()
    big = canvas.repeat(times, 0).repeat(times, 1)
    imsave(file, big, format="png", metadata={"Software": ""})
    return file.getvalue()


def khat(result: KHats) -> str:
    """Pareto k-hat of each datum."""
    figure = Figure(figsize=(6.2, 3.8), layout="constrained")
    plot_pareto_k(result, figure.subplots())
    return _svg(figure)


def ranks(result: Ranks) -> str:
    """Ranks of simulation-based calibration."""
    import matplotlib.pyplot as plt

    figure = plot_sbc(result, components=4)
    text = _svg(figure)
    plt.close(figure)
    return text


def coverage(result: Intervals) -> str:
    """Coverage of intervals."""
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    plot_coverage(result, figure.subplots())
    return _svg(figure)


def themed(svg: str) -> str:
    """An SVG of this module in the colours of the page, light or dark as the reader has it."""
    svg = svg.replace("#000000", "currentColor").replace("#ffffff", "var(--paper)")
    light, dark = (
        f"svg{{--paper:{paper};color:{ink};fill:currentColor}}"
        for paper, ink in zip(PAPER, INK, strict=True)
    )
    style = f"<style>{light}@media (prefers-color-scheme:dark){{{dark}}}</style>"
    return re.sub(r"(<svg\b[^>]*>)", lambda found: found[1] + style, svg, count=1)


def _tiles(images: Tensor) -> Any:
    """Images as red, green, blue and opacity, `(n, height, width, 4)`."""
    pixels = images.detach().cpu().float().clamp(0, 1).permute(0, 2, 3, 1).numpy()
    if pixels.shape[-1] == 1:
        pixels = 1 - pixels.repeat(3, -1)
    return np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1)


def _label(axes: Any, width: int) -> None:
    if width == 1:
        axes.set(xlabel="x", ylabel="density")
    else:
        axes.set(xlabel="first coordinate of x", ylabel="second coordinate of x")
        axes.set_aspect("equal", adjustable="datalim")


def _clean(axes: Any) -> Any:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.2, lw=0.6)
    axes.set_axisbelow(True)
    return axes


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": "ppl-vae"}
    with matplotlib.rc_context(settings):
        # no time stamp, so that the same run gives the same file
        figure.savefig(file, format="svg", dpi=150, metadata={"Date": None})
    text = file.getvalue()
    # a document of its own has a type declaration that a data URI can do without
    text = text[text.index("<svg") :]
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, 'DejaVu Sans', sans-serif", text)
