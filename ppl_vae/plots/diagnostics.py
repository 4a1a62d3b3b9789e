"""Pictures of the diagnostics, as figures."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.palette import (
    BLACK,
    BLUE,
    CYCLE,
    GREEN,
    MARKERS,
    ORANGE,
    RED,
    SHADE,
    SKY,
    Drawing,
    line_colours,
    styled,
)
from ppl_vae.plots.results import Comparison, Intervals, KHats, Ranks, Replicates
from ppl_vae.records import p_value

__all__ = ["plot_coverage", "plot_nuts", "plot_pareto_k", "plot_predictive", "plot_sbc"]


@styled
def plot_pareto_k(result: KHats) -> Figure:
    """k-hat of the data in ascending order: it crosses the threshold at the share of usable data.

    Args:
        result: of `pareto_k`.
    """
    figure = Drawing(6.2, 3.8)
    ax = figure.subplots()
    order = np.argsort(result.k, kind="stable")[: int((~np.isnan(result.k)).sum())]
    k, exact = result.k[order], result.exact[order]
    share = 100 * (np.arange(len(k)) + 0.5) / len(k)
    finite = k[np.isfinite(k)]
    top = 1.1 * max(1.0, float(finite.max()) if len(finite) else 1.0)
    good = (k <= result.threshold) & ~exact
    bad = (k > result.threshold) & np.isfinite(k)
    for mask, colour, marker, label in (
        (exact, GREEN, "s", "exact (constant weights)"),
        (good, BLUE, "o", "usable"),
        (bad, RED, "^", "not usable"),
    ):
        if mask.any():
            ax.plot(share[mask], k[mask], marker, color=colour, ms=4, mew=0, label=label)
    if np.isinf(k).any():
        at = share[np.isinf(k)]
        ax.plot(at, np.full(len(at), top), "x", color=RED, ms=5, label="infinite")
    ax.axhline(result.threshold, color=BLACK, lw=1, ls="--")
    ax.annotate(
        f"threshold {result.threshold:.2f} at {result.draws} draws",
        (0.01, result.threshold),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
    )
    ax.set(
        xlabel="data in order of k-hat (%)",
        ylabel="Pareto k-hat",
        title=f"usable importance proposal: {result.usable:.0%} of {len(k)} data",
        xlim=(0, 100),
        ylim=(min(-0.1, 1.1 * float(finite.min()) if len(finite) else 0.0), 1.12 * top),
    )
    ax.legend(loc="best")
    return figure


@styled
def plot_sbc(result: Ranks, components: int = 6) -> Figure:
    """Histograms of ranks, and how far their distributions are from uniform, with a 99% band.

    Args:
        result: of `sbc`.
        components: how many histograms, of those furthest from uniform.
    """
    series = _series(result.uniform)
    tests = dict(_series({k: np.asarray(p)[None] for k, p in result.p_values.items()}))
    series.sort(key=lambda item: float(tests[item[0]][0]))
    shown = series[:components]
    columns = min(math.ceil(math.sqrt(len(shown))), 4)
    rows = math.ceil(len(shown) / columns)
    figure = Drawing(3.0 * columns + 4.6, max(3.2, 2.2 * rows))
    sides: Any = figure.subfigures(1, 2, width_ratios=[3.0 * columns, 4.6])
    left, right = sides
    grid = left.subplots(rows, columns, squeeze=False)
    n, bins = result.simulations, _bins(result.draws, result.simulations)
    expected = n / bins
    spread = 2.576 * math.sqrt(expected * (1 - 1 / bins))
    for ax in grid.flat[len(shown) :]:
        ax.set_axis_off()
    for ax, (name, u) in zip(grid.flat, shown, strict=False):
        low, high = max(expected - spread, 0), expected + spread
        ax.axhspan(low, high, **SHADE, zorder=3)
        ax.hist(u, bins=bins, range=(0, 1), color=BLUE, alpha=0.85, edgecolor="white", lw=0.5)
        ax.axhline(expected, color=BLACK, lw=0.8)
        ax.set_title(f"{name}   KS p {_equals(float(tests[name][0]))}")
        ax.set_xlim(0, 1)
    left.supxlabel("normalised rank of the truth (grey: 99% of a uniform)")
    left.supylabel("simulations")
    ax = right.subplots()
    at = np.linspace(0, 1, 201)
    band = 1.628 / math.sqrt(n)
    ax.axhspan(-band, band, **SHADE, label="99% band if calibrated")
    for i, ((name, u), colour) in enumerate(zip(series, line_colours(len(series)), strict=True)):
        label = name if i < len(CYCLE) else None
        ecdf = np.searchsorted(np.sort(u), at, side="right") / n
        ax.plot(at, ecdf - at, color=colour, label=label, zorder=3 - i / len(series))
    ax.axhline(0, color=BLACK, lw=0.8)
    ax.set_xlim(0, 1)
    reach = max(1.7 * band, 1.1 * max(abs(bound) for bound in ax.dataLim.intervaly))
    ax.set_ylim(-reach, reach)
    ax.set_xlabel("normalised rank")
    ax.set_ylabel("ECDF - uniform")
    ax.set_title(
        f"{n} simulations, {result.draws} draws, p {_equals(result.p_value)} (Bonferroni)",
        fontsize=9,
    )
    right.legend(loc="outside lower center", ncols=4)
    return figure


@styled
def plot_coverage(result: Intervals) -> Figure:
    """Observed against nominal coverage: small marks are components, large ones a latent's mean.

    Args:
        result: of `coverage`.
    """
    figure = Drawing(4.6, 4.6)
    ax = figure.subplots()
    nominal = result.levels
    fine = np.linspace(0, 1, 101)
    band = 2.576 * np.sqrt(fine * (1 - fine) / result.simulations)
    ax.fill_between(fine, fine - band, fine + band, **SHADE, label="99% band")
    ax.plot([0, 1], [0, 1], color=BLACK, lw=0.8)
    for i, (name, values) in enumerate(result.observed.items()):
        colour, marker = CYCLE[i % len(CYCLE)], MARKERS[i % len(MARKERS)]
        flat = values.reshape(len(nominal), -1)
        if flat.shape[1] > 1:
            every = np.repeat(nominal, flat.shape[1])
            ax.plot(every, flat.ravel(), marker, color=colour, ms=3, alpha=0.35, mew=0)
        ax.plot(nominal, flat.mean(1), marker, color=colour, ms=7, mec="white", label=name)
    ax.set(
        xlabel="nominal level",
        ylabel="truths inside the interval",
        title=f"coverage of central intervals, {result.simulations} simulations",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
    )
    ax.legend(loc="upper left")
    return figure


@styled
def plot_predictive(result: Replicates) -> Figure:
    """Each statistic over drawn data sets, with the data's.

    Args:
        result: of `predictive_check`.
    """
    names = list(result.observed)
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    figure = Drawing(3.1 * columns, 2.4 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(grid.flat, names, strict=False):
        drawn, truth = result.replicated[name], result.observed[name]
        ax.hist(drawn, bins=25, color=SKY, edgecolor="white", lw=0.4, label="drawn")
        ax.axvline(truth, color=RED, lw=2, label="data")
        ax.set_title(f"{name}   p {_equals(result.p_values[name], len(drawn))}")
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    grid.flat[0].legend()
    figure.suptitle(f"{result.source} predictive check of {result.site!r}")
    return figure


@styled
def plot_nuts(result: Comparison, components: int = 12) -> Figure:
    """90% intervals of guide and NUTS for the components furthest apart, and each datum's gaps.

    Args:
        result: of `against_nuts`.
        components: how many are shown.
    """
    entries = []
    for name, apart in result.wasserstein.items():
        for index in np.ndindex(apart.shape):
            q = result.guide[name][(slice(None), *index)]
            p = result.nuts[name][(slice(None), slice(None), *index)].ravel()
            row, rest = result.rows[index[0]], "".join(f"[{i}]" for i in index[1:])
            entries.append((float(apart[index]), f"{name}{rest}, datum {row}", q, p))
    entries.sort(key=lambda entry: -entry[0])
    entries = entries[:components]
    width = 2 if result.gaps is not None else 1
    figure = Drawing(5.6 * width, 1.4 + 0.32 * max(len(entries), 7))
    axes = figure.subplots(1, width, squeeze=False)
    ax = axes[0, 0]
    for i, (_, _, q, p) in enumerate(entries):
        for draws, colour, shift, label in ((p, BLACK, -0.14, "NUTS"), (q, BLUE, 0.14, "guide")):
            low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95])
            marker = "o" if label == "NUTS" else "s"
            ax.plot([low, high], [i + shift] * 2, color=colour, lw=2, solid_capstyle="round")
            ax.plot(middle, i + shift, marker, color=colour, ms=4, label=label if i == 0 else None)
    ax.set_yticks(range(len(entries)), [f"{label}  ({w:.2f})" for w, label, *_ in entries])
    ax.tick_params(axis="y", labelsize=8, length=0)
    ax.invert_yaxis()
    ax.set_xlabel("90% interval and median")
    ax.set_title("furthest apart (1-Wasserstein distance in sds)")
    ax.legend()
    if result.gaps is not None:
        _plot_gaps(axes[0, 1], result)
    return figure


def _plot_gaps(ax: Any, result: Comparison) -> None:
    gaps = result.gaps
    assert gaps is not None
    at = np.arange(len(result.rows))
    if gaps.approximation is not None and gaps.amortisation is not None:
        lower, upper = np.maximum(gaps.approximation, 0), np.maximum(gaps.amortisation, 0)
        ax.bar(at, lower, color=SKY, label="approximation (family)")
        ax.bar(at, upper, bottom=lower, color=ORANGE, hatch="//", label="amortisation (encoder)")
    else:
        ax.bar(at, np.maximum(gaps.inference, 0), color=SKY, label="inference gap")
    error = 2 * np.hypot(gaps.evidence_error, gaps.elbo_error)
    ax.errorbar(at, gaps.inference, error, fmt="none", color=BLACK, lw=1, capsize=3)
    ax.axhline(0, color=BLACK, lw=0.8)
    ax.set_xticks(at, [str(row) for row in result.rows])
    ax.set_xlabel("datum")
    ax.set_ylabel("nats")
    ax.set_title("log p(x) - ELBO (whiskers: 2 standard errors)")
    ax.margins(y=0.18)
    ax.legend()


def _series(table: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """One named column for each component."""
    found = []
    for name, values in table.items():
        for index in np.ndindex(values.shape[1:]):
            label = "log p(x, z)" if name == "log_joint" else name
            label += "".join(f"[{i}]" for i in index)
            found.append((label, values[(slice(None), *index)]))
    return found


def _bins(draws: int, simulations: int) -> int:
    """About 20 bins, each of them as many ranks as the next where the number of ranks allows."""
    most = max(5, min(20, simulations // 20))
    fitting = [b for b in range(5, most + 1) if (draws + 1) % b == 0]
    return fitting[-1] if fitting else most


def _equals(p: float, draws: int | None = None) -> str:
    """A p-value after its letter: "= 0.03", or "< 1e-06"."""
    text = p_value(p, draws)
    return text if text.startswith(("<", ">")) else f"= {text}"
