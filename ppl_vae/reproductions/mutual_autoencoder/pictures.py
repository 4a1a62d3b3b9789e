"""The poster's figures 5 and 6."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.plots.palette import CLASSES, SCALE, Drawing, styled
from ppl_vae.reproductions.common.kept import Measures
from ppl_vae.reproductions.common.measures import unpacked
from ppl_vae.reproductions.mutual_autoencoder.training import VALUES

__all__ = ["codes", "draw_categorical", "draw_normal"]


def codes() -> dict[str, Tensor]:
    """Where the pictures look: z of the first data set; z and x of the second."""
    return {
        "z": torch.linspace(-3, 3, 301),
        "rows": torch.linspace(-2.5, 2.5, 21),
        "x": torch.linspace(-4, 4, 401),
    }


@styled
def draw_categorical(models: Mapping[str, Measures], path: Path) -> Path:
    """The poster's figure 5: p(x|z) as a function of z, a row for each model."""
    z = codes()["z"].numpy()
    figure = Drawing(7, 1.5 * len(models))
    panels = figure.subplots(len(models), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, found) in zip(panels, models.items(), strict=True):
        probs = unpacked(found["shown"]).numpy()
        axis.stackplot(z, probs.T, colors=CLASSES, labels=range(VALUES))
        axis.set(ylim=(0, 1), xlim=(-3, 3), ylabel="p(x | z)")
        axis.set_title(f"{label}: I = {found['information']:.2f} nats")
    panels[-1].set_xlabel("z")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", title="x")
    plots.save(figure, path)
    return path


@styled
def draw_normal(models: Mapping[str, Measures], path: Path) -> Path:
    """The poster's figure 6: p(x|z) p(z) for a grid of z, a row for each model."""
    import matplotlib

    x, rows = codes()["x"].numpy(), codes()["rows"]
    figure = Drawing(7, 1.5 * len(models))
    panels = figure.subplots(len(models), 1, sharex=True, squeeze=False)[:, 0]
    colours = matplotlib.colormaps[SCALE](rows.sub(-2.5).div(5).numpy())
    for axis, (label, found) in zip(panels, models.items(), strict=True):
        for row, colour in zip(unpacked(found["shown"]).numpy(), colours, strict=True):
            axis.plot(x, row, color=colour, linewidth=1)
        axis.set(xlim=(-4, 4), ylim=(0, None), ylabel="p(x | z) p(z)")
        axis.set_title(f"{label}: I = {found['information']:.2f} nats")
    panels[-1].set_xlabel("x")
    scale = matplotlib.colors.Normalize(-2.5, 2.5)
    figure.colorbar(matplotlib.cm.ScalarMappable(scale, SCALE), ax=list(panels), label="z")
    plots.save(figure, path)
    return path
