"""Docstrings are written in one way: formulas in `$`, references by one pattern."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("ppl_vae", "objectives", "guides")
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.is_symlink() for part in path.parents)
)
ENTRY = re.compile(r"[^\d().]+( et al\.)? \((18|19|20)\d\d\), (?!arXiv|doi)[^.]*\S.*\.")
START = re.compile(r"(?<=\.) (?=[^\d().]+(?: et al\.)? \((?:18|19|20)\d\d\))")


def docstrings(path: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def prose(text: str) -> str:
    """A docstring without its code: neither examples nor what stands between backticks."""
    lines = [line for line in text.splitlines() if not re.match(r"\s*(>>>|\.\.\. )", line)]
    return re.sub(r"`[^`]*`", "", "\n".join(lines))


def entries(text: str) -> list[str]:
    """The entries of a docstring's references."""
    found = re.search(r"^References:\n((?:    .*\n?)+)", text, re.M)
    return START.split(" ".join(found[1].split())) if found else []


def test_formulas_stand_between_dollars() -> None:
    for path in FILES:
        for text in docstrings(path):
            assert not re.search(r":\w+:`|^\s*\.\. \w+::|``", text, re.M), f"{path}: {text}"
            assert prose(text).count("$") % 2 == 0, f"{path}: a formula without an end: {text}"


def test_references_say_who_when_what() -> None:
    every = [(path, e) for path in FILES for text in docstrings(path) for e in entries(text)]
    assert len(every) > 80
    for path, entry in every:
        assert ENTRY.fullmatch(entry), f"{path}: {entry}"
