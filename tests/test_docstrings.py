"""Docstrings are written in one way: formulas in `$`, references by one pattern."""

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import docstring_parser

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("ppl_vae", "objectives", "guides")
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.is_symlink() for part in path.parents)
)
sys.path.append(str(ROOT / "docs" / "_ext"))

from names import public  # noqa: E402

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


def described(value: Any) -> set[str]:
    """The arguments and attributes that a docstring, or those of a class's bases, describe."""
    kinds = value.__mro__ if inspect.isclass(value) else [value]
    ours = [kind for kind in kinds if kind.__module__.startswith("ppl_vae")]
    found = set()
    for kind in ours:
        google = docstring_parser.DocstringStyle.GOOGLE
        for part in docstring_parser.parse(kind.__doc__ or "", google).params:
            found |= {name.strip(" *") for name in part.arg_name.split(",")}
    return found


def taken(value: Any) -> set[str]:
    """The arguments that we have given a function or a class."""
    if not inspect.isclass(value):
        return set(inspect.signature(value).parameters)
    made = next((kind for kind in value.__mro__ if "__init__" in vars(kind)), object)
    ours = made.__module__.startswith("ppl_vae")
    return set(inspect.signature(value).parameters) if ours else set()


def test_every_argument_of_a_public_name_is_described() -> None:
    for name, value in public().items():
        if callable(value):
            assert value.__doc__, name
            missing = taken(value) - {"args", "kwargs", "validate_args"} - described(value)
            assert not missing, f"{name}: {sorted(missing)}"
