"""Trainings: terms and codes over the epochs, and where runs ended."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_vae.plots.palette import BLACK, CYCLE, MARKERS, Drawing, line_colours, styled
from ppl_vae.plots.results import Epochs

__all__ = ["curves", "noise_and_spread", "rate_distortion"]

_ACROSS = 4
_OWN_UNIT = "divergence"


@styled
def curves(histories: Mapping[str, Epochs], kinds: Sequence[str]) -> Figure:
    """The loss and its terms against epochs: held out solid, training dotted, targets dashed.

    Args:
        histories: of each run, by its name, with a colour each.
        kinds: of terms, a panel each where a run has them; `target/KIND` is drawn with its kind.
    """
    shown = [k for k in ("loss", *kinds) if any(k in h.names for h in histories.values())]
    across = min(_ACROSS, len(shown))
    down = -(-len(shown) // across)
    figure = Drawing(3.1 * across, 2.7 * down + 0.5)
    for k, kind in enumerate(shown):
        axes = figure.add_subplot(down, across, k + 1)
        seen: list[float] = []
        for i, (name, history) in enumerate(histories.items()):
            seen += _drawn(axes, kind, history, name, CYCLE[i % len(CYCLE)])
        if kind not in ("loss", "reconstruction", "bound"):
            axes.axhline(0, color=BLACK, lw=0.6, alpha=0.5)
        elif len(seen) > 40:
            # the first epochs are far above the rest; they are left out of the range
            low, top = min(seen), float(np.quantile(seen, 0.95))
            axes.set_ylim(low - 0.06 * (top - low), top + 0.1 * (top - low))
        axes.set_title(kind.replace("_", " "))
        _epochs(axes)
        if kind == _OWN_UNIT or k % across == 0:
            axes.set_ylabel("its own unit" if kind == _OWN_UNIT else "nats per datum")
    _legend(figure)
    return figure


def _drawn(axes: Any, kind: str, history: Epochs, name: str, colour: str) -> list[float]:
    """Draws one run's lines of one kind, and returns their finite values."""
    held, target = f"validation/{kind}", f"target/{kind}"
    seen: list[float] = []
    whole = "-" if held not in history.names else ":"
    for column, style, part in (
        (kind, whole, "training"), (held, "-", "held out"), (target, "--", "target")
    ):  # fmt: skip
        if column not in history.names:
            continue
        values = history[column]
        seen += [v for v in values if math.isfinite(v)]
        # matplotlib leaves out of a legend what starts with an underscore
        label = part if not name else f"\u200b{name}" if style == "-" else None
        axes.plot(
            history["epoch"], values, style, marker="o" if len(values) < 3 else "",
            color=colour, label=label,
        )  # fmt: skip
    return seen


@styled
def noise_and_spread(history: Epochs) -> Figure | None:
    r"""Noise and spread of each code over the epochs, and what it can carry at most.

    That is $\frac12 \log(1 + (\mathrm{spread} / \mathrm{noise})^2)$ nats, which falls to 0 as a
    code collapses.

    Args:
        history: of `fit`.

    Returns:
        None where the log holds nothing of codes.
    """
    logged = {*history.names}
    names = [name.removeprefix("sd/") for name in history.names if name.startswith("sd/")]
    names = [name for name in names if f"spread/{name}" in logged]
    if not names:
        return None
    noise = {name: np.asarray(history[f"sd/{name}"]) for name in names}
    spread = {name: np.asarray(history[f"spread/{name}"]) for name in names}
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        carried = {n: np.log(np.hypot(1.0, spread[n] / noise[n])) for n in names}
    names.sort(key=lambda name: -np.nan_to_num(carried[name][-1]))
    panels = (
        ("noise: sd of q(z|x)", noise), ("spread: sd of the means", spread),
        ("most that it carries, nats", carried),
    )  # fmt: skip
    figure = Drawing(3.1 * len(panels), 3.2)
    for axes, (title, values) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for k, (name, colour) in enumerate(zip(names, line_colours(len(names)), strict=True)):
            label = name if k < len(CYCLE) else "others" if k == len(CYCLE) else None
            axes.plot(
                history["epoch"], values[name], color=colour, label=label,
                marker=MARKERS[k % len(MARKERS)], ms=3, markevery=max(1, len(values[name]) // 8),
                zorder=2 if k < len(CYCLE) else 1,
            )  # fmt: skip
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        _epochs(axes)
    _legend(figure)
    return figure


def _epochs(axes: Any) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _legend(figure: Figure) -> None:
    """A legend of what the panels show between them, below them."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        found |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend([*found.values()], [*found], loc="outside lower center", ncols=4)


@styled
def rate_distortion(groups: Mapping[str, Sequence[Mapping[str, float | None]]]) -> Figure | None:
    """Runs by rate and distortion, a panel for likelihood and one for probe as colour.

    Args:
        groups: the numbers of runs by the names of metrics, for each setting.

    Returns:
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
    figure = Drawing(4.6 * len(kinds), 3.9)
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        values = [run.get(kind) for *_, run in points]
        colours = [math.nan if value is None else value for value in values]
        drawn = axes.scatter(
            [rate for _, rate, *_ in points], [d for _, _, d, _ in points],
            c=colours if kind else CYCLE[0], s=46, edgecolor=BLACK, lw=0.5, plotnonfinite=True,
        )  # fmt: skip
        seen: set[str] = set()
        for group, rate, distortion, _ in points:
            if group not in seen:  # one label to a setting
                seen.add(group)
                at, by = (rate, distortion), (5, 4)
                axes.annotate(
                    group, at, by, textcoords="offset points", fontsize=7, parse_math=False
                )
        axes.set(xlabel="rate", ylabel="distortion")
        axes.margins(0.14)
        if kind:
            figure.colorbar(drawn, ax=axes, label=shown[kind])
    return figure
