"""Formulas as MathML, which browsers show by themselves: no script, nothing asked of a server."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

USUAL = {
    r"\\(big|Big)(?![a-zA-Z])": r"\\\1l",
    r"\\dots(?![a-z])": r"\\ldots",
    r"\\textstyle": "",
    r"\\(log|exp|max|min|det)\s+(?=[a-zA-Z\\])": r"\\\1\\, ",  # a space that browsers leave out
}
"""Commands of TeX that docutils lacks, and what it has for them."""

WIDE = 96
"""Characters of a formula from which its lines are kept, as one line would not fit the page."""


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    formula = _lines(node.astext())
    translator.body.append(f'<div class="formula">{_mathml(formula, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _lines(formula: str) -> str:
    """A long formula on the lines that it is written on, where each can stand by itself."""
    lines = [line.strip() for line in formula.strip().splitlines()]
    whole = all(line.count("{") == line.count("}") for line in lines)
    if len(formula) < WIDE or not whole or "&" in formula or r"\left" in formula:
        return formula
    return " \\\\ ".join(
        f"& {line}" if k == 0 else rf"& \quad {line}" for k, line in enumerate(lines)
    )


def _mathml(formula: str, as_block: bool) -> str:
    for pattern, usual in USUAL.items():
        formula = re.sub(pattern, usual, formula)
    if "&" in formula and r"\begin" not in formula:
        formula = rf"\begin{{aligned}}{formula}\end{{aligned}}"
    try:
        return latex2mathml.tex2mathml(formula, as_block=as_block)
    except MathError as error:
        raise ValueError(f"{formula}: {error}") from error
