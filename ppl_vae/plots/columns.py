"""Tables in pictures: columns, rows, counts, and what each code moves."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.palette import BLACK, CYCLE, SHARES, SIGNED, Drawing, logarithmic, styled

__all__ = ["against_columns", "columns", "counts", "heat_map", "moved"]

_PANELS, _ACROSS = 12, 4

Values = np.ndarray[Any, Any]


@styled
def columns(
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
    figure = Drawing(2.7 * across + 0.4, 2.5 * down + 0.5)
    for k, name in enumerate(names):
        axes: Any = figure.add_subplot(down, across, k + 1)
        axes.set_title(name)
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
            _diagonal(axes, x)
            axes.set(xlabel="data", ylabel="model")
        else:
            every = np.concatenate([x, y]).astype(float)
            edges = np.histogram_bin_edges(every, 30)
            for i, (who, values) in enumerate((("data", x), ("model", y))):
                axes.hist(
                    values.astype(float), edges, density=True, color=CYCLE[i], alpha=0.5, label=who
                )
        if not paired and k == 0:
            axes.legend()
    if len(names) < len(data):
        figure.supxlabel(f"the first {len(names)} of {len(data)} columns")
    return figure


@styled
def heat_map(
    data: Values, model: Values, names: Sequence[str], drawn: Values | None = None
) -> Figure:
    """Rows as a heat map: data, their reconstructions, and draws of the model.

    Columns are centred and scaled by the data's mean and standard deviation, from -3 to 3; rows
    are in order of the data's first principal axis, draws in that of their own along it.

    Args:
        data: `(n, columns)`, NaN where missing; 200 rows at most are shown.
        model: what became of them, same shape.
        names: of the columns.
        drawn: `(m, columns)`.
    """
    data, model = data[:200], model[:200]
    mean, sd = np.nanmean(data, 0), np.nanstd(data, 0)
    scaled = [(part - mean) / np.where(sd > 0, sd, 1) for part in (data, model)]
    titles = ["data", "reconstructions"]
    axis = np.linalg.svd(np.nan_to_num(scaled[0]), full_matrices=False)[2][0]
    order = np.argsort(np.nan_to_num(scaled[0]) @ axis, kind="stable")
    scaled = [part[order] for part in scaled]
    if drawn is not None:
        more = (drawn[:200] - mean) / np.where(sd > 0, sd, 1)
        scaled.append(more[np.argsort(np.nan_to_num(more) @ axis, kind="stable")])
        titles.append("draws of the model")
    figure = Drawing(3.4 * len(scaled), 4.2)
    panels = figure.subplots(1, len(scaled))
    for axes, part, title in zip(panels, scaled, titles, strict=True):
        shown = axes.imshow(
            part, cmap=SIGNED, vmin=-3, vmax=3, aspect="auto", interpolation="none"
        )
        axes.set_title(title)
        axes.grid(visible=False)
        axes.set_yticks([])
        _named(axes, names, most=24)
    panels[0].set_ylabel(f"{len(data)} rows")
    figure.colorbar(shown, ax=panels, label="sd of the column", pad=0.01)
    return figure


@styled
def against_columns(data: Values, model: Values) -> Figure:
    """Means and standard deviations of columns, those of draws against those of data.

    Args:
        data: `(n, columns)`, NaN where missing.
        model: `(m, columns)`.
    """
    figure = Drawing(7.6, 3.8)
    statistics: Any = (("mean", np.nanmean), ("standard deviation", np.nanstd))
    for axes, (title, of) in zip(figure.subplots(1, 2), statistics, strict=True):
        x, y = of(data, 0), of(model, 0)
        axes.plot(x, y, "o", ms=4, alpha=0.6, mew=0, color=CYCLE[0])
        _diagonal(axes, x)
        if (x > 0).all() and (y > 0).all() and x.max() > 30 * x.min():
            logarithmic(axes, "x", "y")
        axes.set(title=f"{title} of a column", xlabel="data", ylabel="draws of the model")
    return figure


@styled
def counts(data: Values, model: Values) -> Figure:
    """Columns of counts: the variance and the share of zeros against the mean.

    The line is what a Poisson distribution would have; counts of data mostly lie above it.

    Args:
        data: `(n, columns)`, NaN where missing.
        model: `(m, columns)`, draws.
    """
    figure = Drawing(7.6, 3.8)
    left, right = figure.subplots(1, 2)
    positive = [np.nanmean(data, 0), np.nanmean(model, 0)]
    least = min(m[m > 0].min(initial=1.0) for m in positive)
    grid = np.geomspace(least, max(1.0, *(m.max() for m in positive)), 100)
    left.plot(grid, grid, lw=0.8, color=BLACK, label="Poisson")
    right.plot(grid, np.exp(-grid), lw=0.8, color=BLACK, label="Poisson")
    for i, (who, part) in enumerate((("data", data), ("draws of the model", model))):
        mean = np.nanmean(part, 0)
        zeros = np.nanmean(np.where(np.isnan(part), np.nan, part == 0), 0)
        style = {"ls": "", "marker": "os"[i], "color": CYCLE[i], "alpha": 0.55, "mew": 0}
        variance = np.nanvar(part, 0)
        there = (mean > 0) & (variance > 0)
        left.plot(mean[there], variance[there], **style, label=who)
        right.plot(mean[mean > 0], zeros[mean > 0], **style, label=who)
    left.set(xlabel="mean of a column", ylabel="variance")
    right.set(xlabel="mean of a column", ylabel="share of zeros", ylim=(-0.03, 1.03))
    logarithmic(left, "x", "y")
    logarithmic(right, "x")
    left.legend()
    return figure


@styled
def moved(effects: Values, codes: Sequence[str], names: Sequence[str]) -> Figure:
    """Which columns each code moves: of all columns, or of the 40 that are moved most.

    Args:
        effects: `(codes, columns)`, the change of a column from -2 to 2 standard deviations of a
            code, in its own standard deviations.
        codes: names of the codes.
        names: of the columns.
    """
    most = 40
    size = np.abs(effects).max(0)
    shown = np.sort(np.argsort(-size, kind="stable")[:most])
    effects = effects[:, shown]
    figure = Drawing(min(11.0, 2.2 + 0.28 * max(len(shown), 8)), 1.6 + 0.26 * len(codes))
    axes = figure.subplots()
    reach = max(1e-12, float(np.abs(effects).max()))
    drawn = axes.imshow(
        effects, cmap=SIGNED, vmin=-reach, vmax=reach, aspect="auto", interpolation="none"
    )
    axes.grid(visible=False)
    axes.set_yticks(range(len(codes)), codes)
    _named(axes, [names[k] for k in shown])
    if len(shown) < len(names):
        axes.set_xlabel(f"the {len(shown)} columns of {len(names)} that are moved most")
    figure.colorbar(drawn, ax=axes, label="change, sd of the column", pad=0.01)
    return figure


def _named(axes: Any, names: Sequence[str], most: int = 45) -> None:
    """Names columns of a heat map, where that many can be read."""
    if len(names) > most:
        axes.set_xlabel(f"{len(names)} columns")
        return
    short = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
    axes.set_xticks(range(len(names)), short, rotation=90, fontsize=7)


def _diagonal(axes: Any, x: Values) -> None:
    ends = [min(x, default=0.0), max(x, default=1.0)]
    axes.plot(ends, ends, lw=0.8, color=BLACK, alpha=0.6)


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
    axes.set_xticks(at, _names(levels), rotation=30)


def _square(axes: Any, x: Values, y: Values) -> None:
    levels = sorted({*x.tolist(), *y.tolist()})
    shares = np.array([[float((y[x == a] == b).mean()) if (x == a).any() else 0.0 for b in levels]
                       for a in levels])  # fmt: skip
    axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.set_xticks(range(len(levels)), _names(levels), rotation=30)
    axes.set_yticks(range(len(levels)), _names(levels))
    axes.set(xlabel="model", ylabel="data")
