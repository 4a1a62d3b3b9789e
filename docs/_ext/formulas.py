"""Formulas as MathML, which browsers show by themselves: no script, nothing asked of a server."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

USUAL = {r"\\(big|Big)(?![a-zA-Z])": r"\\\1l", r"\\dots(?![a-z])": r"\\ldots", r"\\textstyle": ""}
"""Commands of TeX that docutils lacks, and what it has for them."""


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{_mathml(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _mathml(formula: str, as_block: bool) -> str:
    for pattern, usual in USUAL.items():
        formula = re.sub(pattern, usual, formula)
    if "&" in formula and r"\begin" not in formula:
        formula = rf"\begin{{aligned}}{formula}\end{{aligned}}"
    try:
        return latex2mathml.tex2mathml(formula, as_block=as_block)
    except MathError as error:
        raise ValueError(f"{formula}: {error}") from error
