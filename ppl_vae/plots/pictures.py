"""Pictures of a run, drawn without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ppl_vae.plots.results import Epochs

__all__ = ["curves", "latent", "reconstructions", "samples"]

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
_DPI = 150
_PLAIN = {"linewidth": 0.8, "color": "#444444"}


def reconstructions(x: Tensor, mean: Tensor, path: str | Path, columns: int = 10) -> None:
    """Draws data beside the decoder's mean at their posterior means.

    Args:
        x: data, `(n, *size)`; images `(n, channels, height, width)` are shown as such, one or
            two numbers as points.
        mean: what became of them, same shape.
        path: the file to write.
        columns: images to a row.
    """
    if is_image(x):
        rows = []
        for start in range(0, min(len(x), 4 * columns), columns):
            rows += [x[start : start + columns], mean[start : start + columns]]
        labels = ["data" if i % 2 == 0 else "model" for i in range(len(rows))]
        _save(_grid(rows, labels, "Held-out data and their reconstructions"), path)
        return
    figure, axes = _figure(1, "Held-out data and their reconstructions")
    _points(axes[0], {"data": x, "model": mean})
    _save(figure, path)


def samples(
    draws: Tensor,
    path: str | Path,
    x: Tensor | None = None,
    columns: int = 8,
    title: str = "Samples of the model",
) -> None:
    """Draws samples of the model: the decoder's means at draws of the prior.

    Args:
        draws: `(n, *size)`.
        path: the file to write.
        x: data to show beside points.
        columns: images to a row.
        title: what images are of.
    """
    if is_image(draws):
        rows = [draws[i : i + columns] for i in range(0, len(draws), columns)]
        _save(_grid(rows, [], title), path)
        return
    figure, axes = _figure(1, title)
    _points(axes[0], {"model": draws} if x is None else {"data": x, "model": draws})
    _save(figure, path)


def latent(
    codes: Tensor,
    labels: Tensor | None,
    path: str | Path,
    classes: Sequence[str] = (),
    radius: bool = True,
) -> None:
    """Draws codes in the plane, coloured by class: as they are, or their first two principal axes.

    Args:
        codes: `(n, d)`.
        labels: `(n,)` class indices, or None.
        path: the file to write.
        classes: names of the classes.
        radius: draw the circles that hold 50 and 95 % of a standard normal prior.
    """
    flat = codes.detach().cpu().double()
    d = flat.shape[1]
    if d > 2:
        centred = flat - flat.mean(0)
        _, values, axes_ = torch.linalg.svd(centred, full_matrices=False)
        # a sign for each axis, so that the picture does not depend on the solver's
        axes_ = axes_ * axes_.gather(1, axes_.abs().argmax(1, keepdim=True)).sign()
        share = (values.square() / values.square().sum())[:2]
        flat = centred @ axes_[:2].T
        names = [f"principal axis {k + 1} ({100 * share[k]:.0f} % of variance)" for k in (0, 1)]
        title = f"Posterior means, d = {d}, first two principal axes"
    else:
        if d == 1:
            flat = torch.cat([flat, torch.linspace(-1, 1, len(flat))[:, None].double()], 1)
        names = ["z, first coordinate", "z, second coordinate" if d == 2 else "row (spread out)"]
        title = f"Posterior means, d = {d}"
    figure, (axes,) = _figure(1, title, width=7.0, height=6.0)
    points = flat.numpy()
    if radius and d > 1:
        for share_of, style in ((0.5, "--"), (0.95, ":")):
            r = float(np.sqrt(-2 * np.log(1 - share_of)))
            turn = np.linspace(0, 2 * np.pi, 200)
            axes.plot(r * np.cos(turn), r * np.sin(turn), style, zorder=0, **_PLAIN)
            axes.annotate(
                f"{100 * share_of:.0f} % of the prior", (0, -r), fontsize=7, color="#444444",
                ha="center", va="center", zorder=3,
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
            )  # fmt: skip
        axes.set_aspect("equal", adjustable="datalim")
    groups = [None] if labels is None else sorted(set(labels.tolist()))
    size = float(np.clip(9000 / len(points), 3, 30))
    for group in groups:
        rows = np.ones(len(points), bool) if group is None else (labels == group).cpu().numpy()
        name = None if group is None else class_name(group, classes)
        colour = COLOURS[0 if group is None else group % len(COLOURS)]
        here = points[rows]
        axes.scatter(*here.T, s=size, color=colour, alpha=0.75, linewidths=0, label=name)
        if name is not None:
            # the name in the middle of its class: colour is not the only clue
            axes.annotate(
                name, np.median(here, 0), fontsize=11, weight="bold", ha="center", va="center",
                bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": colour, "alpha": 0.85},
                zorder=4,
            )  # fmt: skip
    if labels is not None:
        legend = figure.legend(loc="outside right upper", title="class", frameon=False, fontsize=9)
        for handle in filter(None, legend.legend_handles):
            handle.set(sizes=[40], alpha=1)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    _save(figure, path)


def class_name(label: int, classes: Sequence[str]) -> str:
    """What a picture calls a class: its name, or its number; negative ones are not known."""
    if label < 0:
        return "unknown"
    return classes[label] if label < len(classes) else str(label)


def curves(history: Epochs, path: str | Path) -> None:
    """Draws the loss and each kind of term against epochs, training and validation.

    Args:
        history: of the training.
        path: the file to write.
    """
    wanted = ("loss", "reconstruction", "rate", "divergence")
    kinds = [kind for kind in wanted if kind in history.names]
    figure, axes = _figure(len(kinds), "Training", width=3.6 * len(kinds), height=3.2)
    epochs = history["epoch"]
    marker = "o" if len(epochs) < 3 else ""
    for kind, here in zip(kinds, axes, strict=True):
        values = history[kind]
        here.plot(epochs, values, marker=marker, color=COLOURS[0], label="training")
        if f"validation/{kind}" in history.names:
            held = history[f"validation/{kind}"]
            values = values + held
            here.plot(epochs, held, "--", marker=marker, color=COLOURS[2], label="held out")
        finite = [v for v in values if np.isfinite(v)]
        if kind in ("rate", "divergence"):
            here.axhline(0, zorder=0, **_PLAIN)
        elif len(finite) > 20:
            # the first epochs are far above the rest; leave them out of the picture's range
            top = float(np.quantile(finite, 0.97))
            low = min(finite)
            here.set_ylim(low - 0.08 * (top - low), top + 0.15 * (top - low))
        here.set_title(kind)
        here.set_xlabel("epoch")
        here.xaxis.set_major_locator(MaxNLocator(integer=True))
        here.set_ylabel("unit of the divergence" if kind == "divergence" else "nats per datum")
        here.grid(alpha=0.25)
    axes[0].legend(frameon=False)
    _save(figure, path)


def is_image(x: Tensor) -> bool:
    """Whether rows are images: `(n, channels, height, width)` with 1 or 3 channels."""
    return x.dim() == 4 and x.shape[1] in (1, 3)


def _grid(rows: Sequence[Tensor], labels: Sequence[str], title: str) -> Figure:
    """Images side by side on one canvas, with a thin gap."""
    columns = max(len(row) for row in rows)
    channels, height, width = rows[0].shape[1:]
    gap = max(1, height // 14)
    shape = len(rows) * (height + gap) - gap, columns * (width + gap) - gap, channels
    canvas = np.full(shape, 0.12 if channels == 1 else 1.0)
    for i, row in enumerate(rows):
        images = row.detach().cpu().float().clamp(0, 1).permute(0, 2, 3, 1).numpy()
        for j, image in enumerate(images):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = image
    cell = 0.62
    figure, (axes,) = _figure(
        1,
        title,
        width=max(4.0, cell * columns + 0.9),
        height=cell * len(rows) * height / width + 0.6,
    )
    # ink on paper: a digit's bright strokes are drawn dark
    if channels == 1:
        axes.imshow(canvas[..., 0], cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(canvas, interpolation="nearest")
    centres = [i * (height + gap) + height / 2 for i in range(len(labels))]
    axes.set_yticks(centres, labels, fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _points(axes: Axes, groups: dict[str, Tensor]) -> None:
    markers = ("o", "x")
    for k, (name, x) in enumerate(groups.items()):
        flat = x.detach().cpu().flatten(1).double().numpy()
        if flat.shape[1] == 1:
            axes.hist(
                flat[:, 0], bins=40, density=True, color=COLOURS[2 * k], alpha=0.5, label=name
            )
            axes.set(xlabel="x", ylabel="density")
        else:
            axes.scatter(
                flat[:, 0], flat[:, 1], s=12, marker=markers[k], color=COLOURS[2 * k], alpha=0.6,
                linewidths=0.8, label=name,
            )  # fmt: skip
            axes.set(xlabel="x, first coordinate", ylabel="x, second coordinate")
            axes.set_aspect("equal")
    axes.legend(frameon=False)


def _figure(
    panels: int, title: str, width: float = 5.5, height: float = 4.5
) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    figure.suptitle(title, fontsize=11)
    for here in axes:
        here.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _save(figure: Figure, path: str | Path) -> None:
    # no time stamp, so that the same run gives the same file
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
