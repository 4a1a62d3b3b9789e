"""How pictures look: their colours, lines and sizes. No other module names one.

`STYLE` holds what matplotlib takes as settings, for pictures of your own too:
`plt.rcParams.update(STYLE)`.
"""

from collections.abc import Callable
from functools import wraps
from io import BytesIO
from typing import Any, ParamSpec, TypeVar

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

__all__ = [
    "BLACK",
    "BLUE",
    "CLASSES",
    "CYCLE",
    "GREEN",
    "GREY",
    "INK",
    "MARKERS",
    "ORANGE",
    "PAPER",
    "PURPLE",
    "RED",
    "SCALE",
    "SHADE",
    "SHARES",
    "SIGNED",
    "SKY",
    "STYLE",
    "Drawing",
    "line_colours",
    "logarithmic",
    "styled",
]

# Okabe and Ito's colours, which stay apart under the common kinds of colour blindness; what a
# colour says is also said by a marker, a line or a label.
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = CYCLE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
)
"""Runs, sites and whatever else comes in a handful."""

CLASSES = (
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
"""Ten classes: colours made to keep apart so (M. A. Petroff, 2021, arXiv:2107.02270)."""

MARKERS = "os^Dv*PX<>"

BLACK, GREY = "#000000", "#8A8A8A"
"""Lines and words; what stands behind them."""

SCALE, SIGNED, SHARES = "viridis", "RdBu_r", "Blues"
"""Colours of numbers: of any, of either sign, from 0 to 1."""

SHADE: dict[str, Any] = {"color": GREY, "alpha": 0.28, "lw": 0}
"""A band."""

PAPER, INK = ("#ffffff", "#161b22"), ("#1f2328", "#d1d7e0")
"""A page's colours, light and dark."""

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.labelsize": 9,
    "figure.titlesize": 11,
    "grid.alpha": 0.2,
    "grid.linewidth": 0.6,
    "image.cmap": SCALE,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    "svg.hashsalt": "ppl-vae",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
"""Settings of matplotlib."""

# names of runs, columns and classes are text, with whatever signs
_STYLE = STYLE | {"text.parse_math": False}

P = ParamSpec("P")
T = TypeVar("T")


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """A function that draws in this style."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return inside


class Drawing(Figure):
    """A figure in this style, which no display is needed for and nobody has to close.

    A notebook shows it as the value of a cell; `savefig` writes it.
    """

    def __init__(self, width: float, height: float) -> None:
        with matplotlib.rc_context(_STYLE):
            super().__init__(figsize=(width, height), layout="constrained")

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        with matplotlib.rc_context(_STYLE):  # which ticks are made in
            super().savefig(*args, **kwargs)

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def line_colours(count: int) -> list[str]:
    """A colour for each of `count` lines: those of the cycle, and grey for the rest."""
    return [*CYCLE, *[GREY] * (count - len(CYCLE))][:count]


def logarithmic(axes: Any, *which: str) -> None:
    """Logarithmic axes, `x` or `y`, with plain numbers at the powers of ten."""
    for name in which:
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
