"""Docstrings as they are written, Markdown within Google's sections, as Sphinx reads them."""

import re
from functools import cache
from typing import Any

from names import public
from sphinx.application import Sphinx

SECTION = re.compile(r"[A-Z][a-z]+:$")
REFERENCE = re.compile(r"(?<=\.) (?=[^\d().]+(?: et al\.)? \(\d{4}\))")
CODE_OR_FORMULA = re.compile(r"(\w?)(`[^`]+`|\$[^$]+\$)(\w?)")
BULLET = re.compile(r"\s*\* ")
SPECIAL = re.compile(r"(?<=\S)\*|\*(?=\S)|\||_(?=\W|$)")
STARRED = re.compile(r"\s*\*{1,2}\w+( \(.*?\))?: ")


def convert(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrites a docstring in place; napoleon reads it next."""
    lines[:] = _prose(_code(_formulas(_references(lines))), name)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", convert, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _references(lines: list[str]) -> list[str]:
    """A list of its entries in place of the paragraph under `References:`."""
    if "References:" not in lines:
        return lines
    start = lines.index("References:") + 1
    end = next((k for k in range(start, len(lines)) if not lines[k].strip()), len(lines))
    entries = REFERENCE.split(" ".join(line.strip() for line in lines[start:end]))
    return [*lines[:start], *(f"    * {entry}" for entry in entries), *lines[end:]]


def _formulas(lines: list[str]) -> list[str]:
    """Formulas on lines of their own as blocks."""

    def block(found: re.Match[str]) -> str:
        indent, body = found[1], found[2].splitlines()
        return "\n".join(
            ["", f"{indent}.. math::", "", *(f"{indent}    {line.strip()}" for line in body), ""]
        )

    text = re.sub(r"^( *)\$\$(.*?)\$\$$", block, "\n".join(lines), flags=re.M | re.S)
    return text.split("\n")


def _code(lines: list[str]) -> list[str]:
    """A line that ends with a colon introduces the indented lines below it as code."""
    out: list[str] = []
    for k, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if k > 1 and line.strip() and not lines[k - 1].strip():
            before = next((old for old in reversed(lines[:k]) if old.strip()), "")
            deeper = indent >= len(before) - len(before.lstrip()) + 4
            asks = before.endswith(":") and not before.endswith("::")
            if deeper and asks and not SECTION.match(before.strip()):
                out += [" " * (len(before) - len(before.lstrip())) + "::", ""]
        out.append(line)
    return out


def _prose(lines: list[str], name: str) -> list[str]:
    """Words, names and formulas in the markup of Sphinx; code stays as it is."""
    out: list[str] = []
    text: list[str] = []
    code: int | None = None

    def flush() -> None:
        if text:
            out.extend(_inline("\n".join(text), name).split("\n"))
            text.clear()

    for line in lines:
        indent = len(line) - len(line.lstrip())
        if code is not None and (not line.strip() or indent > code):
            out.append(line)
            continue
        code = None
        if line.strip() in ("::", ".. math::") or line.lstrip().startswith(">>>"):
            flush()
            # an example ends with a line that is less indented, a block with one that is as much
            code = indent - 1 if line.lstrip().startswith(">>>") else indent
            out.append(line)
            continue
        first = BULLET.match(line) and not any(BULLET.match(old) for old in text)
        if first and text and text[-1].strip():
            text.append("")
        text.append(line)
    flush()
    return out


def _inline(text: str, name: str) -> str:
    spans: list[str] = []

    def keep(found: re.Match[str]) -> str:
        before, span, after = found.groups()
        words = " ".join(span[1:-1].split())
        role = f":math:`{words}`" if span[0] == "$" else _named(words, name)
        spans.append((before and before + "\\ ") + role + (after and "\\ " + after))
        return f"\0{len(spans) - 1}\0"

    text = CODE_OR_FORMULA.sub(keep, text)
    text = "\n".join(
        line
        if STARRED.match(line)
        else re.sub(r"(?<!^)(?<=\S)\*|\*(?=\S)|\||_(?=\W|$)", r"\\\g<0>", line)
        for line in text.split("\n")
    )
    text = re.sub(r"\[([^\]\n]+)\]\((http[^)\s]+)\)", r"`\1 <\2>`__", text)
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", text)
    text = re.sub(r"doi:(10\.[\w./-]+\w)", r"`doi:\1 <https://doi.org/\1>`__", text)
    return re.sub(r"\0(\d+)\0", lambda found: spans[int(found[1])], text)


def _named(code: str, name: str) -> str:
    """A link where the code is a public name, with or without a call; else the code."""
    target = _targets().get(code.removesuffix("()"), [])
    near = [path for path in target if path.split(".")[1] == name.split(".")[1]] or target
    if len(near) != 1 or near[0] == name:
        return f"``{code}``"
    return f":py:obj:`{code} <{near[0]}>`"


@cache
def _targets() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in public():
        found.setdefault(path, []).append(path)
        found.setdefault(path.rpartition(".")[2], []).append(path)
    return found
