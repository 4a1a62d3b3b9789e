"""The frame of a report: one HTML page that loads nothing, filled with text and pictures."""

from importlib.resources import files
from typing import Any

from ppl_vae import __version__
from ppl_vae.plots.palette import INK, PAPER

__all__ = ["fill"]


def fill(**parts: Any) -> str:
    """The page with its parts; whatever text these hold is escaped.

    Args:
        parts: what `page.html` names; the number of `runs` sets its width.
    """
    from jinja2 import Environment, StrictUndefined

    text = files("ppl_vae.report").joinpath("page.html").read_text(encoding="utf-8")
    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(text)
    sizes = {1: "--page:920px", 2: ""}.get(len(parts["runs"]), "--page:1560px;--least:20rem")
    return page.render(parts, sizes=sizes, paper=PAPER, ink=INK, version=__version__)
