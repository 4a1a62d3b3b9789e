"""Tables in pictures: a panel for each column."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.diagnostics import CYCLE
from ppl_vae.plots.figures import clean

__all__ = ["columns_figure"]

_PANELS, _ACROSS = 12, 4

Values = np.ndarray[Any, Any]


def columns_figure(
    data: Mapping[str, Values],
    model: Mapping[str, Values],
    classes: Collection[str] = (),
    paired: bool = False,
) -> Figure:
    """The columns of two tables, those of data and those of a model, the first twelve.

    Numbers are drawn as two histograms, classes (and 0 and 1) as the shares of their levels. Of
    paired rows, data and their reconstructions, numbers are points against the diagonal, and
    classes a square of how often each level becomes which. Missing values are left out.

    Args:
        data: the values of each column by name.
        model: the same of the model.
        classes: which columns hold classes.
        paired: whether the rows of one are those of the other.
    """
    names = [*data][:_PANELS]
    across = min(_ACROSS, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(2.7 * across + 0.4, 2.5 * down + 0.5), layout="constrained")
    for k, name in enumerate(names):
        axes = clean(figure.add_subplot(down, across, k + 1))
        axes.set_title(name, fontsize=10, parse_math=False)
        x, y = data[name], model[name]
        if paired:
            there = _there(x)
            x, y = x[there], y[there]
        else:
            x, y = x[_there(x)], y[_there(y)]
        if name in classes or (not paired and {*x.tolist()} <= {0, 1}):
            (_square if paired else _shares)(axes, x, y)
        elif paired:
            axes.plot(x, y, ".", ms=3, alpha=0.5, color=CYCLE[0])
            ends = [min(x, default=0.0), max(x, default=1.0)]
            axes.plot(ends, ends, lw=0.8, color="black", alpha=0.6)
            axes.set(xlabel="data", ylabel="model")
        else:
            every = np.concatenate([x, y]).astype(float)
            edges = np.histogram_bin_edges(every, 30)
            for i, (who, values) in enumerate((("data", x), ("model", y))):
                axes.hist(
                    values.astype(float), edges, density=True, color=CYCLE[i], alpha=0.5, label=who
                )
        if not paired and k == 0:
            axes.legend(frameon=False, fontsize=8)
    return figure


def _there(values: Values) -> Values:
    if values.dtype.kind == "f":
        return ~np.isnan(values)
    return np.array([value is not None for value in values], dtype=bool)


def _names(levels: list[Any]) -> list[str]:
    return [str(level)[:12].replace("$", r"\$") for level in levels]  # no formula


def _shares(axes: Any, x: Values, y: Values) -> None:
    levels = sorted({*x.tolist(), *y.tolist()})
    at = np.arange(len(levels))
    for i, (who, values) in enumerate((("data", x), ("model", y))):
        shares = [float((values == level).mean()) if len(values) else 0.0 for level in levels]
        axes.bar(at + 0.4 * i - 0.2, shares, 0.4, color=CYCLE[i], alpha=0.7, label=who)
    axes.set_xticks(at, _names(levels), rotation=30, fontsize=8)


def _square(axes: Any, x: Values, y: Values) -> None:
    levels = sorted({*x.tolist(), *y.tolist()})
    shares = np.array([[float((y[x == a] == b).mean()) if (x == a).any() else 0.0 for b in levels]
                       for a in levels])  # fmt: skip
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.set_xticks(range(len(levels)), _names(levels), rotation=30, fontsize=8)
    axes.set_yticks(range(len(levels)), _names(levels), fontsize=8)
    axes.set(xlabel="model", ylabel="data")
