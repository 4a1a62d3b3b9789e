"""Charts and image grids for the report: SVG and PNG, drawn without a display.

An SVG is drawn in black on white; `themed` lets it follow the page into the dark.
"""

import io
import re
from collections.abc import Collection, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae.plots.columns import columns_figure
from ppl_vae.plots.diagnostics import plot_coverage, plot_pareto_k, plot_sbc
from ppl_vae.plots.figures import (
    COLOURS,
    canvas,
    clean,
    codes_figure,
    curves_figure,
    plane,
    points_figure,
)
from ppl_vae.plots.results import Epochs, Intervals, KHats, Ranks

__all__ = [
    "codes",
    "columns",
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
    return _svg(curves_figure(histories))


def codes(mean: Tensor, labels: Tensor | None, classes: Sequence[str] = ()) -> str:
    """Posterior means in the plane, by class: as they are, or their first two principal axes.

    Args:
        mean: `(n, d)`; 4,000 rows at most are drawn.
        labels: `(n,)` class indices.
        classes: their names.
    """
    return _svg(codes_figure(mean[:4000], None if labels is None else labels[:4000], classes))


def points(groups: Mapping[str, Tensor]) -> str:
    """Sets of rows in the plane of their first two coordinates; densities of single numbers."""
    return _svg(points_figure(groups))


def columns(
    data: Mapping[str, np.ndarray],
    model: Mapping[str, np.ndarray],
    classes: Collection[str] = (),
    paired: bool = False,
) -> str:
    """The columns of a table beside those of a model; see `columns_figure`."""
    return _svg(columns_figure(data, model, classes, paired))


def lines(paths: Mapping[str, Tensor], every: bool = True) -> str:
    """Paths through data space, `(steps, *size)` each, in the plane of two coordinates.

    Args:
        paths: by name.
        every: name each path in a legend.
    """
    figure = Figure(figsize=(5.0, 4.4), layout="constrained")
    axes = clean(figure.subplots())
    for k, (name, path) in enumerate(paths.items()):
        flat = path.detach().cpu().flatten(1).double().numpy()
        colour = COLOURS[k % len(COLOURS)]
        across = np.linspace(0, 1, len(flat)) if flat.shape[1] == 1 else flat[:, 0]
        up = flat[:, 0] if flat.shape[1] == 1 else flat[:, 1]
        axes.plot(across, up, "-o", ms=3, lw=1.2, color=colour, label=name if every else None)
    if flat.shape[1] == 1:
        axes.set(xlabel="share of the way", ylabel="x")
    else:
        plane(axes)
    if every:
        axes.legend(frameon=False, fontsize=8, ncols=2)
    return _svg(figure)


def grid(rows: Sequence[Sequence[Tensor]], after: int = 1) -> bytes:
    """Images side by side as a PNG; see `canvas`."""
    from matplotlib.image import imsave

    whole = canvas(rows, after)
    times = max(1, -(-_WIDTH // whole.shape[1]))
    file = io.BytesIO()
    big = whole.repeat(times, 0).repeat(times, 1)
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
    return re.sub(r"\A(<svg\b[^>]*>)", lambda found: found[1] + style, svg, count=1)


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
