"""Codes in the plane."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae.plots.palette import CLASSES, GREY, MARKERS, Drawing, styled

__all__ = ["latent"]


@styled
def latent(
    codes: Tensor, labels: Tensor | None, classes: Sequence[str] = (), radius: bool = False
) -> Figure:
    """Codes in the plane, by class: as they are, or their first two principal axes.

    What a colour and a marker stand for is said outside the axes, where nothing lies under it.

    Args:
        codes: `(n, d)`.
        labels: `(n,)` class indices, negative where unknown, or None.
        classes: names of the classes.
        radius: draw the circles that hold 50 and 95 % of a standard normal prior.
    """
    flat = codes.detach().cpu().double()
    d = flat.shape[1]
    names = ["first coordinate of z", "second coordinate of z"]
    if d == 1:
        flat = torch.cat([flat, torch.linspace(-1, 1, len(flat)).double()[:, None]], 1)
        names = ["z", "row (spread out)"]
    elif d > 2:
        centred = flat - flat.mean(0)
        _, values, basis = torch.linalg.svd(centred, full_matrices=False)
        # a sign for each axis, so that the picture does not depend on the solver's
        basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
        share = 100 * values.square() / values.square().sum()
        flat = centred @ basis[:2].T
        names = [f"principal axis {k + 1} ({share[k]:.0f} % of variance)" for k in (0, 1)]
    figure = Drawing(5.8, 5.0)
    axes: Any = figure.subplots()
    where = flat.numpy()
    kinds = np.zeros(len(where), int) if labels is None else labels.cpu().numpy()
    size = float(np.clip(9000 / len(where), 4, 26))
    for kind in np.unique(kinds):
        axes.scatter(
            *where[kinds == kind].T, s=size, color=CLASSES[kind % len(CLASSES)], alpha=0.75,
            marker=MARKERS[kind % len(MARKERS)], linewidths=0, rasterized=True,
            label="codes" if labels is None else _class(kind, classes),
        )  # fmt: skip
    for share, style in ((0.5, "--"), (0.95, ":")) if radius and d > 1 else ():
        r = float(np.sqrt(-2 * np.log(1 - share)))
        turn = np.linspace(0, 2 * np.pi, 200)
        label = f"{100 * share:.0f} % of the prior"
        axes.plot(
            r * np.cos(turn), r * np.sin(turn), style, zorder=0, lw=1, color=GREY, label=label
        )
    if labels is not None or (radius and d > 1):
        legend = figure.legend(loc="outside right upper")
        for handle in filter(None, legend.legend_handles):
            if hasattr(handle, "set_sizes"):
                handle.set(sizes=[40], alpha=1)
    axes.set(xlabel=names[0], ylabel=names[1])
    if d > 1:
        axes.set_aspect("equal", adjustable="datalim")
    return figure


def _class(label: int, classes: Sequence[str]) -> str:
    """What a picture calls a class: its name, or its number; negative ones are not known."""
    if label < 0:
        return "unknown"
    return classes[label] if label < len(classes) else str(label)
