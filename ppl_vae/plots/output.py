"""Figures as files and as parts of a page."""

import io
import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ppl_vae import files
from ppl_vae.plots.palette import BLACK, INK, PAPER

__all__ = ["png", "save", "svg", "themed"]


def save(figure: Figure, path: str | Path, title: str = "") -> None:
    """Writes a figure; the same figure gives the same file.

    Args:
        figure: what a function of `ppl_vae.plots` returned.
        path: of the file, whose ending says the format.
        title: above it.
    """
    if title:
        figure.suptitle(title, parse_math=False)
    # no time stamp
    key = "Date" if str(path).endswith((".svg", ".pdf")) else "Software"
    key = "CreationDate" if str(path).endswith(".pdf") else key
    path = Path(path) if Path(path).suffix else Path(path).with_suffix(".png")
    with files.written(path) as draft:
        figure.savefig(draft, metadata={key: None})


def svg(figure: Figure) -> str:
    """A figure as an SVG in black on white."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    # a document of its own has a type declaration that a data URI can do without
    text = text[text.index("<svg") :]
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, 'DejaVu Sans', sans-serif", text)


def themed(svg: str) -> str:
    """An SVG of this module in the colours of the page, light or dark as the reader has it."""
    svg = svg.replace(BLACK, "currentColor").replace(PAPER[0], "var(--paper)")
    light, dark = (
        f"svg{{--paper:{paper};color:{ink};fill:currentColor}}"
        for paper, ink in zip(PAPER, INK, strict=True)
    )
    style = f"<style>{light}@media screen and (prefers-color-scheme:dark){{{dark}}}</style>"
    return re.sub(r"\A(<svg\b[^>]*>)", lambda found: found[1] + style, svg, count=1)


def png(pixels: np.ndarray, width: int = 640) -> bytes:
    """Pixels, `(height, width, 4)` from 0 to 1, as a PNG, each repeated up to a width."""
    from matplotlib.image import imsave

    times = max(1, -(-width // pixels.shape[1]))
    file = io.BytesIO()
    big = pixels.repeat(times, 0).repeat(times, 1)
    imsave(file, big, format="png", metadata={"Software": ""})
    return file.getvalue()
